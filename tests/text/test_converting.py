"""Checkpoints whose names, or tensors, transformers changes as it loads them."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from acutance.errors import UserError
from acutance_text.causal import Causal
from acutance_text.converting import Converted, named_as_now
from acutance_text.finetuned import with_new_head
from acutance_text.making import fill
from acutance_text.revisions import Revisions, RevisionsSpec
from acutance_text.transformers_pool import FolderSpec, Transformers

ENDS = {"bos_token_id": 0, "eos_token_id": 0}
SIZE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 13, "intermediate_size": 16}
EXPERTS = SIZE | ENDS | {"num_key_value_heads": 1, "num_experts_per_tok": 2}


def neox(**settings):
    torch.manual_seed(0)
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZE, **ENDS, **settings))


def mixtral():
    torch.manual_seed(0)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**EXPERTS, num_local_experts=3))


def qwen():
    torch.manual_seed(0)
    config = transformers.Qwen2MoeConfig(
        **EXPERTS, num_experts=3, moe_intermediate_size=8, shared_expert_intermediate_size=8
    )
    return transformers.Qwen2MoeForCausalLM(config)


def opened(folder, pool=None):
    spec = FolderSpec(path=str(folder))
    pool = pool or Causal()
    return pool.load(pool.entries(spec)[0], spec)


def assert_equal(model, expected, kind):
    state, wanted = model.state_dict(), expected.state_dict()
    assert type(model).__name__ == type(expected).__name__ and state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) and state[name].dtype == kind for name in wanted)
    buffers = dict(expected.named_buffers())
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    ids = torch.arange(12).reshape(2, 6)
    assert torch.equal(model(input_ids=ids).logits, expected.eval()(input_ids=ids).logits)
    assert model(input_ids=ids[:, None]).logits.shape == (2, 1, 6, 13)  # rows of choices


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [neox, mixtral, qwen])
def test_models_are_those_of_from_pretrained(make, kind, tmp_path):
    made = make().to(kind)
    made.save_pretrained(tmp_path / "model", max_shard_size="2KB")
    state = torch.random.get_rng_state()
    model = opened(tmp_path / "model")
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(t, made.state_dict()[name]) for name, t in model.state_dict().items())
    assert_equal(model, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=kind), kind)


def test_names_in_the_file_are_old_ones_and_tables_of_once_are_passed_over(tmp_path):
    made = neox()
    made.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    assert "embed_out.weight" in state  # otherwise nothing is renamed here
    tables = {"attention.bias": 1, "attention.masked_bias": 1, "attention.rotary_emb.inv_freq": 2}
    more = {f"gpt_neox.layers.{i}.{name}": torch.ones(n) for i in range(2) for name, n in tables.items()}
    save_file(state | more, file, {"format": "pt"})
    assert_equal(opened(tmp_path / "model"), made, torch.float32)
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"unexpected: module\.embed_out"):  # the pattern is of the name's beginning
        opened(tmp_path / "model")
    save_file(state | {"gpt_neox.layers.0.other": torch.ones(1)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"unexpected: gpt_neox\.layers\.0\.other"):
        opened(tmp_path / "model")
    save_file(state | {"lm_head.weight": torch.ones(13, 8)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"both 'lm_head\.weight'"):
        opened(tmp_path / "model")


def test_a_base_model_without_its_prefix_is_the_whole_where_the_head_is_tied(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=13, n_positions=16, **ENDS)
    made = transformers.GPT2LMHeadModel(config)
    made.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    save_file(state | {"h.0.attn.bias": torch.ones(1, 1, 16, 16)}, file, {"format": "pt"})
    assert_equal(opened(tmp_path / "model"), made, torch.float32)
    save_file({f"module.transformer.{name}": tensor for name, tensor in state.items()}, file, {"format": "pt"})
    assert_equal(opened(tmp_path / "model"), made, torch.float32)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_merged_tensors_must_fit(change, tmp_path):
    mixtral().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if ".experts.1." in name)
    if change == "missing":
        del state["model.norm.weight"]
    elif change == "unexpected":
        state["model.other"] = torch.ones(1)
    else:
        state[name] = torch.ones(3, 3)
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError) as caught:
        opened(tmp_path / "model")
    assert str(tmp_path) in caught.value.message and "\n" not in caught.value.message


def test_an_expert_that_is_not_there_is_refused(tmp_path):
    mixtral().save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = {name: tensor for name, tensor in load_file(file).items() if ".experts.2." not in name}
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError):
        opened(tmp_path / "model")


def test_merging_is_refused_where_one_tensor_after_the_other_is_copied(tmp_path):
    made = mixtral()
    made.save_pretrained(tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    with pytest.raises(Converted, match="merges or splits") as caught:
        fill(made, state, "file")
    assert "experts" in caught.value.message


def test_classifiers_and_new_heads_are_renamed_too(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(**SIZE, **ENDS, num_labels=3, pad_token_id=0)
    made = transformers.GPTNeoXForSequenceClassification(config)
    made.save_pretrained(tmp_path / "model")
    model = opened(tmp_path / "model", Transformers())
    assert all(torch.equal(t, made.state_dict()[name]) for name, t in model.state_dict().items())
    neox().save_pretrained(tmp_path / "base")
    new = with_new_head(tmp_path / "base", 3, "sdpa").base_model.state_dict()
    assert all(torch.equal(t, new[name]) for name, t in neox().base_model.state_dict().items())


def test_revisions_of_a_renamed_family(tmp_path):
    made = neox()
    made.save_pretrained(tmp_path / "all" / "step1")
    pool = Revisions()
    spec = RevisionsSpec(path=str(tmp_path / "all"))
    assert_equal(pool.load(pool.entries(spec)[0], spec), made, torch.float32)


def test_models_of_others_keep_their_names():
    model = torch.nn.Linear(2, 2)
    assert list(named_as_now({"a.LayerNorm.gamma": 1, "bias": 2}, model)) == ["a.LayerNorm.weight", "bias"]
    assert json.dumps(named_as_now({"weight": 1, "embeddings.position_ids": 2}, model)) == '{"weight": 1}'


def test_a_name_that_the_model_has_is_not_renamed_to_one_that_it_has_not(monkeypatch):
    mapping = pytest.importorskip("transformers.conversion_mapping", reason="transformers 5")
    from transformers.core_model_loading import WeightRenaming

    renamings = [WeightRenaming("final_layer_norm", "ln_f")]
    monkeypatch.setattr(mapping, "get_model_conversion_mapping", lambda model: renamings)
    model = neox()
    assert named_as_now(model.state_dict(), model).keys() == model.state_dict().keys()
