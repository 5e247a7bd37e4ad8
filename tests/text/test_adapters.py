"""LoRA adapters in PEFT's file format, written by hand here, and by PEFT itself where it is installed."""

import json
import math
import socket

import huggingface_hub
import pytest
import torch
import transformers
from published_text import tiny_bert
from safetensors.torch import save_file
from torch import nn

from acutance import LossSurface, UserError
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.testing.core import examine
from acutance_text.adapters import Adapters, AdaptersSpec
from acutance_text.next_token import next_token

IDS = torch.randint(257, (3, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))

    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return tmp_path / "hub"


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=257, n_embd=8, n_layer=2, n_head=2, n_positions=8, bos_token_id=256, eos_token_id=256
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=12, max_position_embeddings=8, bos_token_id=256, eos_token_id=256, attention_bias=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def base(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def noise(*shape, seed=1):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written(folder, tensors, **config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"base_model.model.{name}": t for name, t in tensors.items()}, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 6,
        "fan_in_fan_out": True,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


ATTENTION = "transformer.h.0.attn.c_attn"


def lora(name=ATTENTION, inputs=8, outputs=24, rank=2, seed=1):
    return {
        f"{name}.lora_A.weight": noise(rank, inputs, seed=seed),
        f"{name}.lora_B.weight": noise(outputs, rank, seed=seed + 50),
    }


def loaded(path, **settings):
    spec = AdaptersSpec(path=str(path), **settings)
    entries = Adapters().entries(spec)
    return [Adapters().load(entry, spec) for entry in entries], entries


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


SURFACES = ("adapter", "merged")


@pytest.mark.parametrize("surface", SURFACES)
def test_a_change_is_added_to_the_matrix_of_its_layer(surface, base, tmp_path):
    tensors = lora()
    folder = written(tmp_path / "a", tensors, base_model_name_or_path=str(base))
    (model,), (entry,) = loaded(folder, surface=surface)
    expected = gpt2()
    with torch.no_grad():  # GPT-2's matrix is (inputs, outputs)
        a, b = (tensors[f"{ATTENTION}.lora_{part}.weight"] for part in "AB")
        expected.transformer.h[0].attn.c_attn.weight += 6 / 2 * (b @ a).T
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-6)
    assert (logits(model) - logits(gpt2())).abs().max() > 1e-3
    assert entry.attributes == {"r": 2, "lora_alpha": 6} and entry.path is None
    assert entry.architecture == "gpt2-2-8-257" + ("+lora" if surface == "merged" else "+lora-2")
    assert not any(module.training for module in model.modules())


def test_the_adapters_surface_is_over_its_weights_alone(base, tmp_path):
    tensors = lora() | {"transformer.ln_f.bias": noise(8)}
    folder = written(tmp_path / "a", tensors, base_model_name_or_path=str(base), bias="all")
    (alone,), _ = loaded(folder)
    (whole,), _ = loaded(folder, surface="merged")
    own = {name: p for name, p in alone.named_parameters()}
    assert {name.rpartition(".")[2] for name in own} == {"lora_A", "lora_B", "bias"}
    assert sum(p.numel() for p in own.values()) == 2 * 8 + 2 * 24 + 8
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in gpt2().parameters())
    points = ({"input_ids": IDS}, IDS)
    alone, whole = (LossSurface(m, points, loss=next_token, dtype="float64") for m in (alone, whole))
    torch.testing.assert_close(alone.loss(), whole.loss(), rtol=1e-6, atol=0)
    # The chain rule: dL/dB = s dL/dW A^T, of GPT-2's transposed matrix.
    gradient = whole.unflatten(whole.gradient()[1])[f"{ATTENTION}.weight"].T
    a = tensors[f"{ATTENTION}.lora_A.weight"].double()
    found = alone.unflatten(alone.gradient()[1])[f"{ATTENTION}.lora_B"]
    torch.testing.assert_close(found, 3 * gradient @ a.T, rtol=1e-5, atol=1e-8)
    v = torch.randn(alone.w.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-5
    difference = (alone.gradient(alone.w + step * v)[1] - alone.gradient(alone.w - step * v)[1]) / (2 * step)
    torch.testing.assert_close(alone.hvp(v), difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / math.sqrt(2)),
        ({"alpha_pattern": {"c_attn": 1}}, 0.5),
        ({"alpha_pattern": {"attn": 1, r"h\.\d+\.attn\.c_attn": 4, "c_attn": 9}}, 2.0),
        ({"alpha_pattern": {"mlp.c_fc": 1}}, 3.0),
    ],
)
@pytest.mark.parametrize("surface", SURFACES)
def test_how_much_of_a_change_counts(config, scale, surface, base, tmp_path):
    tensors = lora()
    (model,), _ = loaded(written(tmp_path / "a", tensors, **config), surface=surface, base=str(base))
    expected = gpt2()
    with torch.no_grad():
        delta = tensors[f"{ATTENTION}.lora_B.weight"] @ tensors[f"{ATTENTION}.lora_A.weight"]
        expected.transformer.h[0].attn.c_attn.weight += scale * delta.T
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-6)


def test_embeddings_change_where_they_look_up_and_not_where_they_are_tied(base, tmp_path):
    tensors = {
        "transformer.wte.lora_embedding_A": noise(2, 257), "transformer.wte.lora_embedding_B": noise(8, 2),
        "transformer.wpe.lora_embedding_A": noise(2, 8), "transformer.wpe.lora_embedding_B": noise(8, 2, seed=4),
    }  # fmt: skip
    folder = written(tmp_path / "a", tensors, base_model_name_or_path=str(base))
    (model,), _ = loaded(folder)
    expected = gpt2()
    with torch.no_grad():
        head = expected.lm_head.weight.clone()
        for name, module in (("wte", expected.transformer.wte), ("wpe", expected.transformer.wpe)):
            a, b = (tensors[f"transformer.{name}.lora_embedding_{part}"] for part in "AB")
            module.weight = nn.Parameter(module.weight + 3 * (b @ a).T)
        expected.lm_head.weight = nn.Parameter(head)
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match=r"'transformer.wte' shares its matrix with .*lm_head.weight.*surface: adapter"):
        loaded(folder, surface="merged")
    square = {name: t for name, t in tensors.items() if "wpe" in name}  # an 8 x 8 matrix can be added either way
    (model,), _ = loaded(written(tmp_path / "b", square), surface="merged", base=str(base))
    (other,), _ = loaded(tmp_path / "b", base=str(base))
    torch.testing.assert_close(logits(model), logits(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("surface", SURFACES)
def test_saved_modules_and_biases_take_the_place_of_the_bases(surface, base, tmp_path):
    tensors = lora() | {
        "lm_head.weight": noise(257, 8, seed=7), f"{ATTENTION}.base_layer.bias": noise(24, seed=8),
        f"{ATTENTION}.lora_B.bias": noise(24, seed=9),
    }  # fmt: skip
    config = {"modules_to_save": ["lm_head"], "bias": "lora_only", "lora_bias": True}
    (model,), _ = loaded(written(tmp_path / "a", tensors, **config), surface=surface, base=str(base))
    expected = gpt2()
    with torch.no_grad():
        a, b = (tensors[f"{ATTENTION}.lora_{part}.weight"] for part in "AB")
        expected.transformer.h[0].attn.c_attn.weight += 3 * (b @ a).T
        bias = tensors[f"{ATTENTION}.base_layer.bias"] + 3 * tensors[f"{ATTENTION}.lora_B.bias"]
        expected.transformer.h[0].attn.c_attn.bias.copy_(bias)
        expected.lm_head.weight = nn.Parameter(tensors["lm_head.weight"])  # the embedding stays
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-6)


def test_half_precision_is_widened_not_rounded(base, tmp_path):
    tensors = {name: t.bfloat16() for name, t in lora().items()}
    for surface in SURFACES:
        (model,), _ = loaded(written(tmp_path / "a", tensors), surface=surface, base=str(base))
        expected = gpt2()
        with torch.no_grad():
            a, b = (tensors[f"{ATTENTION}.lora_{part}.weight"].float() for part in "AB")
            expected.transformer.h[0].attn.c_attn.weight += 3 * (b @ a).T
        torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-6)


def test_a_classifier_may_have_its_head_in_the_adapter(tmp_path):
    tiny_bert().bert.save_pretrained(tmp_path / "encoder")
    tiny_bert().save_pretrained(tmp_path / "classifier")
    name = "bert.encoder.layer.0.attention.self.query"
    tensors = lora(name, 32, 32)
    head = {"classifier.weight": noise(5, 32), "classifier.bias": noise(5, seed=3)}
    config = {"task_type": "SEQ_CLS", "fan_in_fan_out": False}
    for base, saved in (("encoder", head), ("classifier", {})):
        folder = written(tmp_path / f"a_{base}", tensors | saved, modules_to_save=list(saved), **config)
        expected = tiny_bert(classes=5 if saved else 3).eval()
        for surface in SURFACES:
            (model,), _ = loaded(folder, base=str(tmp_path / base), surface=surface)
            fresh = tiny_bert().eval()
            expected.bert.load_state_dict(fresh.bert.state_dict())
            if not saved:
                expected.load_state_dict(fresh.state_dict())
            with torch.no_grad():
                a, b = (tensors[f"{name}.lora_{part}.weight"] for part in "AB")
                expected.get_submodule(name).weight += 3 * b @ a
                for key, tensor in saved.items():
                    expected.get_parameter(key).copy_(tensor)
            ids = IDS % 40
            torch.testing.assert_close(logits(model, ids), logits(expected, ids), rtol=1e-5, atol=1e-6)


def test_a_base_is_named_by_the_adapter_or_the_setting_on_disk_or_in_the_cache(base, hub, tmp_path):
    folder = written(tmp_path / "a", lora(), base_model_name_or_path="org/gpt")
    with pytest.raises(UserError, match=r"a: its base 'org/gpt' is not on disk \(write base: FOLDER, or get it"):
        loaded(folder)
    for revision, commit in (("main", "1" * 40), ("v2", "2" * 40)):
        place = hub / "models--org--gpt"
        gpt2().save_pretrained(place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / revision).write_text(commit)
    spec = AdaptersSpec(path=str(folder))
    assert Adapters().data_settings(Adapters().entries(spec)[0], spec)["tokenizer"].endswith("1" * 40)
    written(tmp_path / "a", lora(), base_model_name_or_path="org/gpt", revision="v2")
    assert Adapters().data_settings(Adapters().entries(spec)[0], spec)["tokenizer"].endswith("2" * 40)
    written(tmp_path / "a", lora(), base_model_name_or_path="org/gpt", revision="v3")
    with pytest.raises(UserError, match="'org/gpt' at revision v3 is not on disk"):
        loaded(folder)
    written(tmp_path / "a", lora())
    with pytest.raises(UserError, match=r"a: does not name its base \(write base: FOLDER\)"):
        loaded(folder)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3 are not understood, only LORA"),
        ({"use_dora": True}, "use_dora: this kind of LoRA is not understood.*merge_and_unload"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"something_new": {"x": 1}}, "something_new"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa changes the base too"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(config, match, base, tmp_path):
    with pytest.raises(UserError, match=match):
        loaded(written(tmp_path / "a", lora(), **config), base=str(base))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({f"{ATTENTION}.lora_A.weight": noise(2, 8)}, "which is no low-rank change of a matrix"),
        (lora() | {f"{ATTENTION}.lora_magnitude_vector": noise(24)}, "lora_magnitude_vector' is not understood.*DoRA"),
        (lora("transformer.h.9.attn.c_attn"), "its base has no transformer.h.9.attn.c_attn"),
        (lora(outputs=8), r"c_attn' is \(8, 24\) in its base, its change \(8, 8\)"),
        (lora("transformer.ln_f", 8, 8), "'transformer.ln_f' is a LayerNorm.*only linear layers"),
        (lora("lm_head", 8, 257) | {"lm_head.lora_B.bias": noise(257)}, "'lm_head' has no bias that could change"),
        (lora() | {"lm_head.weight": noise(256, 8)}, "its base has no lm_head.weight of that shape"),
    ],
)
def test_what_does_not_fit_is_refused(tensors, match, base, tmp_path):
    with pytest.raises(UserError, match=match):
        loaded(written(tmp_path / "a", tensors), base=str(base))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"r": 4}, r"c_attn' has rank 2, and adapter_config\.json says 4"),
        ({"rank_pattern": {"c_attn": 3}}, "has rank 2, .* says 3"),
        ({"target_modules": ["c_proj"]}, "changes 'transformer.h.0.attn.c_attn', which is none of the target_modules"),
        ({"target_modules": ["attn"]}, "none of the target_modules"),
        ({"target_modules": r".*\.mlp\..*"}, "none of the target_modules"),
    ],
)
def test_a_config_of_another_adapter_is_refused(config, match, base, tmp_path):
    """Its factor would be another: alpha over the rank that the config names."""
    with pytest.raises(UserError, match=match):
        loaded(written(tmp_path / "a", lora(), **config), base=str(base))


@pytest.mark.parametrize("targets", [["c_attn"], ["attn.c_attn", "absent"], r".*\.c_attn", "all-linear"])
def test_targets_are_named_by_the_end_of_their_names_or_a_pattern(targets, base, tmp_path):
    models, _ = loaded(written(tmp_path / "a", lora(), target_modules=targets), base=str(base))
    same, _ = loaded(written(tmp_path / "b", lora(), rank_pattern={"c_attn": 2}), base=str(base))
    assert torch.equal(logits(models[0]), logits(same[0]))


def test_an_adapter_that_is_not_understood_is_left_out_of_the_others(base, tmp_path):
    here = {"base_model_name_or_path": str(base)}
    for name, config in (
        ("dora", {"use_dora": True}),
        ("fits", {}),
        ("nobase", {"base_model_name_or_path": "/no/a/b"}),
    ):
        written(tmp_path / "all" / name, lora(), **here | config)
    spec, pool = AdaptersSpec(path=str(tmp_path / "all")), Adapters()
    entries = {entry.id: entry for entry in pool.entries(spec)}
    assert list(entries) == ["dora", "fits", "nobase"] and entries["fits"].architecture.startswith("gpt2-")
    pool.load(entries["fits"], spec)
    with pytest.raises(UserError, match="use_dora"):
        pool.load(entries["dora"], spec)
    with pytest.raises(
        UserError, match=r"nobase: its base '/no/a/b' is not on disk \(write base: FOLDER, of the model"
    ):
        pool.load(entries["nobase"], spec)
    with pytest.raises(UserError, match=r"base 'org/none' is not on disk \(write base: FOLDER, or get it"):
        pool.entries(AdaptersSpec(path=spec.path, base="org/none"))
    with pytest.raises(UserError, match=r"base '.*all' has no config\.json \(write base: FOLDER, of"):
        pool.entries(AdaptersSpec(path=spec.path, base=spec.path))


def test_folders_without_an_adapter_are_refused(base, tmp_path):
    with pytest.raises(UserError, match=r"path: .*base has no adapter \(give a folder with adapter_config.json"):
        loaded(base)
    folder = written(tmp_path / "a", lora())
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="a: has no weights"):
        loaded(folder, base=str(base))
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(UserError, match="is no config of an adapter"):
        loaded(folder, base=str(base))


def test_merged_models_began_at_their_base(base, tmp_path):
    folder = written(tmp_path / "all" / "a", lora(seed=1))
    written(tmp_path / "all" / "b", lora(seed=2))
    spec = AdaptersSpec(path=str(folder.parent), base=str(base), surface="merged")
    entry = Adapters().entries(spec)[0]
    state = Adapters().initial(entry, spec).state_dict()
    assert all(torch.equal(t, state[name]) for name, t in gpt2().state_dict().items())
    alone = AdaptersSpec(path=str(folder.parent), base=str(base))
    assert Adapters().initial(entry, alone) is None
    named = AdaptersSpec(path=str(folder), base=str(base), initial=str(folder.parent / "b"))
    began = dict(Adapters().initial(entry, named).named_parameters())
    assert torch.equal(began[f"{ATTENTION}.lora_A"], lora(seed=2)[f"{ATTENTION}.lora_A.weight"])


def test_a_study_of_adapters(base, tmp_path):
    for i in range(3):
        written(tmp_path / "all" / f"seed={i}", lora(seed=i), base_model_name_or_path=str(base))
    (tmp_path / "text.txt").write_text("the quick brown fox " * 20)
    settings = {
        "format": 1, "within": ["architecture"], "pools": [{"name": "adapters", "path": str(tmp_path / "all")}],
        "dataset": {"name": "tokens", "files": {"train": str(tmp_path / "text.txt")}, "block": 8},
        "surface": {"points": 8, "m": 8, "select": "first", "loss": "acutance_text.causal:next_token"},
        "measures": [{"name": "average_case", "rho": 0.1, "draws": 2}, {"name": "hessian_trace", "probes": 2}],
        "targets": ["train.loss"],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(settings))
    run = run_study(load_config(tmp_path / "study.yaml"), tmp_path / "run", report=False)
    assert run.models["admitted"].all() and run.models["target.train.loss"].nunique() == 3
    assert set(run.results["status"]) == {"ok"}


def test_the_pool_conforms(base, tmp_path):
    for i in range(2):
        written(tmp_path / "all" / f"seed={i}", lora(seed=i), base_model_name_or_path=str(base))
    for surface in SURFACES:
        spec = {"path": str(tmp_path / "all"), "surface": surface}
        outcomes = list(examine(catalog().find("pools", "adapters"), spec=spec).run())
        assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
        assert sum(o.state == "passed" for o in outcomes) >= 8


# -- beside PEFT --------------------------------------------------------------------------------------------

WAYS = {
    "linear layers": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "rank and alpha by pattern": (
        llama,
        {
            "target_modules": "all-linear", "use_rslora": True, "alpha_pattern": {"down_proj": 3, r"layers\.0\..*": 5},
            "rank_pattern": {"layers.0.self_attn.q_proj": 3},
        },
    ),
    "biases": (llama, {"target_modules": ["q_proj"], "bias": "all"}),
    "bias of B": (llama, {"target_modules": ["q_proj", "k_proj"], "lora_bias": True, "bias": "lora_only"}),
    "transposed": (gpt2, {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only", "fan_in_fan_out": True}),
    "embeddings and a whole head": (gpt2, {"target_modules": ["wte", "c_fc"], "modules_to_save": ["lm_head"]}),
    "dropout": (gpt2, {"target_modules": ["c_attn"], "lora_dropout": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_models_are_those_of_peft(way, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    make, settings = WAYS[way]
    make().save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=7, **settings))
    for i, (name, parameter) in enumerate(wrapped.named_parameters()):
        if "lora" in name or "modules_to_save" in name or ("bias" in name and parameter.requires_grad):
            parameter.data = parameter.data + noise(*parameter.shape, seed=100 + i)
    wrapped.eval().save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    expected = logits(wrapped)
    again = peft.PeftModel.from_pretrained(make(), tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), expected)
    for surface in SURFACES if way != "embeddings and a whole head" else ("adapter",):
        (found,), _ = loaded(tmp_path / "adapter", base=str(tmp_path / "base"), surface=surface)
        torch.testing.assert_close(logits(found), expected, rtol=1e-5, atol=1e-5)
    assert (expected - logits(make())).abs().max() > 1e-3
