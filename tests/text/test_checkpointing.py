"""Activation checkpointing of transformers models: the same values in less memory, and the model as it was."""

import copy
import gc

import pytest
import torch
from tests.live_memory import LiveBytes

import acutance
from acutance import LossSurface, UserError
from acutance.surface.open_model import OpenModel
from acutance_text.next_token import next_token

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 90, "num_hidden_layers": 6, "num_attention_heads": 4, "hidden_size": 32, "pad_token_id": 0}
LM = {
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(
        vocab_size=90, n_embd=32, n_layer=6, n_head=4, n_positions=64, resid_pdrop=0.5, bos_token_id=1, eos_token_id=2),
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(
        **SMALL, num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64, bos_token_id=1, eos_token_id=2),
    "OPTForCausalLM": lambda: transformers.OPTConfig(
        **SMALL, ffn_dim=64, max_position_embeddings=64, dropout=0.5, word_embed_proj_dim=32, bos_token_id=1, eos_token_id=2),
}  # fmt: skip
IDS = torch.randint(3, 90, (8, 48), generator=torch.Generator().manual_seed(0))


def language_model(name):
    torch.manual_seed(0)
    return getattr(transformers, name)(LM[name]())


def surface_of(model, **options):
    return LossSurface(model, ({"input_ids": IDS}, IDS), loss=next_token, **options)


@pytest.mark.parametrize("name", LM)
def test_gradients_are_bitwise_the_same_and_the_model_is_as_it_was(name):
    model = language_model(name)
    before = {n: vars(m).copy() for n, m in model.named_modules()}
    plain, less = surface_of(model), surface_of(model, checkpointing=True)
    assert len(less.core.functional.recomputation.layers) == 6 and plain.core.functional.recomputation is None
    for point in (None, 1.01 * plain.w):
        (loss, g), (other_loss, other_g) = plain.gradient(point), less.gradient(point)
        assert torch.equal(loss, other_loss) and torch.equal(g, other_g)
    for measure, fields in (("sam_sharpness", {"rho": 0.1}), ("worst_case", {"rho": 0.1, "norm": "l2", "steps": 2})):
        values = [acutance.measure(measure, s, **fields) for s in (plain, less)]
        assert values[0].value == values[1].value and values[0].cost == values[1].cost
    assert not less.core.functional.recomputation.on
    for n, m in model.named_modules():
        assert vars(m).keys() == before[n].keys() and all(vars(m)[k] is v for k, v in before[n].items()), n


def peak(surface):
    surface.clean()
    surface.core.examined()
    w = 1.01 * surface.w
    gc.collect()
    with LiveBytes() as live:
        surface.gradient(w)
    return live.peak


def test_first_order_passes_need_less_memory():
    model = language_model("LlamaForCausalLM")
    full, less = peak(surface_of(copy.deepcopy(model))), peak(surface_of(copy.deepcopy(model), checkpointing=True))
    vectors = 2 * 4 * sum(p.numel() for p in model.parameters())
    assert less - vectors < 0.6 * (full - vectors)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_native_gradients_are_the_same_too(name):
    model = language_model(name).bfloat16()
    found = [
        acutance.measure(
            "gradient_norm", surface_of(copy.deepcopy(model), dtype="native", checkpointing=on, microbatch=4)
        )
        for on in (False, True)
    ]
    assert found[0].value == found[1].value and found[0].extras == found[1].extras
    assert found[0].status == "ok"


def test_other_derivatives_are_made_without_it():
    model = language_model("LlamaForCausalLM")
    plain, less = surface_of(copy.deepcopy(model)), surface_of(copy.deepcopy(model), checkpointing=True)
    v = torch.randn(plain.size, generator=torch.Generator().manual_seed(1))
    less.gradient()
    assert torch.equal(plain.hvp(v), less.hvp(v))
    g = [torch.cat([*s.example_gradients()]) for s in (plain, less)]
    assert torch.equal(*g)


def test_a_pass_that_fails_leaves_the_model_as_it_was():
    model = language_model("GPT2LMHeadModel")

    def failing(logits, targets):
        if logits.requires_grad and len(logits) == 8:
            raise ZeroDivisionError
        return next_token(logits, targets)

    surface = LossSurface(model, ({"input_ids": IDS}, IDS), loss=failing, checkpointing=True)
    with pytest.raises(ZeroDivisionError):
        surface.gradient()
    assert not surface.core.functional.recomputation.on
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_classifier_and_the_python_argument():
    config = transformers.BertConfig(**SMALL, intermediate_size=64, max_position_embeddings=64, num_labels=3)
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    mask = torch.ones_like(IDS)
    mask[::2, 30:] = 0
    points = {"input_ids": IDS, "attention_mask": mask}, torch.arange(8) % 3
    values = [
        acutance.measure("gradient_norm", copy.deepcopy(model), points, checkpointing=on).value for on in (False, True)
    ]
    assert values[0] == values[1]


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(UserError, match="Linear has no layers that can be made again"):
        LossSurface(torch.nn.Linear(3, 3), (torch.randn(4, 3), torch.arange(4) % 3), checkpointing=True)
    with pytest.raises(UserError, match="no layers that can be made again"):
        acutance.measure(
            "loss", OpenModel(torch.nn.Linear(3, 3)), (torch.randn(4, 3), torch.arange(4) % 3), checkpointing=True
        )
