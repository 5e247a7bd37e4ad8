"""What classical measures leave of a model, and what they say at weights beyond what numbers can tell."""

import pytest
import torch
from torch import nn

import acutance
from acutance import Status, UserError
from acutance.testing.models import MLP, mlp_data


class Counting(nn.Module):
    """A network that counts its calls, keeps a mean in a buffer and replaces another; not homogeneous if asked."""

    def __init__(self, odd=False):
        super().__init__()
        self.first, self.last, self.odd = nn.Linear(6, 5), nn.Linear(5, 4), odd
        for name in ("calls", "mean", "latest"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.calls += 1
        self.latest = self.latest + 1
        h = self.first(x).relu()
        self.mean.mul_(0.9).add_(1.0)
        return self.last(h.tanh() if self.odd else h)


@pytest.mark.parametrize("odd", [False, True])
def test_tracing_leaves_what_a_forward_pass_counts(odd):
    model = Counting(odd).double()
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    found = acutance.measure("path_norm", model, mlp_data())
    assert found.status is (Status.UNSUPPORTED if odd else Status.OK)
    for name, buffer in model.named_buffers():
        assert buffer is before[name][0] and torch.equal(buffer, before[name][1]), name
    assert model.training


@pytest.mark.parametrize("name", ["hidden_margin", "gradient_weight_alignment", "relative_flatness", "path_norm"])
def test_reading_a_weight_takes_no_step_of_its_normalization(name):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))).double()
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    values = [acutance.measure(name, model, mlp_data()) for _ in range(2)]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert values[0].status is values[1].status
    assert values[0].value == values[1].value or values[0].status is Status.UNSUPPORTED


def scaled(factor):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


SINGLE = mlp_data()[0].float(), mlp_data()[1]


@pytest.mark.parametrize(
    ("name", "factor", "why"),
    [
        ("directional_sharpness", 1e-30, "exactly zero"),
        ("relative_flatness", 1e18, "saturated"),
        ("gradient_weight_alignment", 0.0, "its weights are all zero"),
    ],
)
def test_what_underflows_is_no_zero(name, factor, why):
    found = acutance.measure(name, scaled(factor), SINGLE)
    assert found.status is Status.UNSUPPORTED and why in found.message


@pytest.mark.parametrize("factor", [1e10, 1e12, 1e15, 1e18])
def test_huge_weights_raise_nothing_of_the_checks(factor):
    for name in ("fisher_trace", "gradient_norm"):
        found = acutance.measure(name, scaled(factor), SINGLE)
        assert found.status is not Status.FAILED


@pytest.mark.parametrize("name", ["mp_soft_rank", "power_law_alpha"])
def test_equal_eigenvalues_are_no_law(name):
    layer = nn.Linear(30, 30)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(30))
    found = acutance.measure(name, layer, None)
    assert found.status is Status.UNSUPPORTED and "all eigenvalues are the same" in found.message


def test_zero_features_are_told():
    model = scaled(1.0)
    with torch.no_grad():
        model[0].weight.zero_(), model[0].bias.fill_(-1.0)
    found = acutance.measure("gradient_weight_alignment", model, SINGLE)
    assert "what goes into it is zero" in found.message


@pytest.mark.parametrize("initial", [3, {"layers.0.weight": 3}, [1.0]])
def test_initial_weights_that_are_none_are_one_sentence(initial):
    with pytest.raises(UserError, match="initial weights"):
        acutance.measure("distance_from_initialization", MLP(), initial=initial)


def test_what_has_no_paths_in_a_transformer_is_named():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    tokens = torch.randint(0, 20, (6, 5))
    data = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, torch.arange(6) % 2
    found = acutance.measure("path_norm", BertForSequenceClassification(config), data)
    assert found.status is Status.UNSUPPORTED
    assert found.message == (
        "the path norm is not defined: 'bert.embeddings.word_embeddings' (Embedding) is not positively homogeneous"
    )
