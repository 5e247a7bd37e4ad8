"""The last linear layer and what goes into it, of models in many forms, with one forward."""

import pytest
import torch
from networks import NETWORKS
from torch import nn

from acutance import LossSurface, Unsupported, UserError


def surface_of(name, **options):
    model, data = NETWORKS[name]
    return LossSurface(model(), data(), **options)


@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("name", ["mlp", "conv_bn", "attention", "bert", "vit"])
def test_the_logits_are_the_layers_output(name, microbatch):
    surface = surface_of(name, microbatch=microbatch)
    last = surface.last_layer()
    raw = surface.clean().raw
    bias = 0 if last.bias is None else last.bias
    assert torch.allclose(last.features @ last.weight.T + bias, raw, rtol=1e-12 if raw.dtype == torch.float64 else 1e-4)
    assert last.features.shape == (surface.n, last.weight.shape[1]) and last.weight.shape[0] == raw.shape[1]
    # It is the pass of the logits.
    assert surface.cost.forwards == surface.n
    assert surface.transformed().last_layer() is last and surface.cost.forwards == surface.n


def test_what_comes_after_the_layer_is_told():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    with pytest.raises(Unsupported, match=r"not what the last linear layer \('0'\) gives: something comes after it"):
        LossSurface(model, (x, y)).last_layer()


def test_a_model_without_linear_layers_has_none():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()).double()
    surface = LossSurface(model, (torch.randn(4, 1, 3, 3).double(), torch.arange(4) % 3))
    with pytest.raises(Unsupported, match="has no linear layer that gives its logits"):
        surface.last_layer()


def test_a_released_surface_looks_again():
    surface = surface_of("mlp")
    first = surface.last_layer()
    surface.release()
    assert torch.equal(surface.last_layer().features, first.features) and surface.cost.forwards == 2 * surface.n


def test_the_layer_at_other_weights_is_that_of_a_model_with_these():
    model, other = (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double() for _ in range(2))
    x = torch.randn(7, 4, dtype=torch.float64)
    surface = LossSurface(model, (x, torch.zeros(7).long()), microbatch=3)
    w = torch.nn.utils.parameters_to_vector(other.parameters()).detach()
    before, last = surface.cost.forwards, surface.last_layer(w)
    assert surface.cost.forwards - before == 7
    torch.testing.assert_close(last.features, other[:2](x).detach())
    assert torch.equal(last.weight, other[2].weight) and torch.equal(last.bias, other[2].bias)
    torch.testing.assert_close(surface.activations("0", w)["0"], other[0](x).detach())
    torch.testing.assert_close(surface.last_layer().features, model[:2](x).detach())


def test_the_model_on_other_inputs_books_its_passes_here():
    model, x = nn.Linear(4, 3).double(), torch.randn(6, 4, dtype=torch.float64)
    for targets in (torch.arange(6) % 3, None):
        surface = LossSurface(model, (x, targets))
        surface.clean_logits()
        other = surface.at_inputs(x + 1)
        torch.testing.assert_close(other.clean_logits(), model(x + 1).detach())
        assert surface.cost.forwards == 12
        assert torch.equal(surface.clean_logits(), model(x).detach())
        with pytest.raises(UserError, match="there are 5 other inputs, this surface has 6 examples"):
            surface.at_inputs(x[:5])
    assert torch.equal(LossSurface(model, (x, torch.arange(6) % 3)).at_inputs(x).targets, torch.arange(6) % 3)
