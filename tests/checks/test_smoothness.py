"""Parametrizations whose weights jump when their parameters move: named and refused; smooth ones never are."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import acutance
from acutance import LossSurface, Unsupported


def points():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 5, generator=generator), torch.arange(24) % 3


def network(make, **fields):
    torch.manual_seed(0)
    return nn.Sequential(make(nn.Linear(5, 6), **fields), nn.Tanh(), nn.Linear(6, 3))


def householder():
    return network(parametrizations.orthogonal)


NAME = "0.parametrizations.weight.original"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name,fields", [
    ("worst_case", {"rho": 1e-3}), ("average_case", {"rho": 1e-3, "draws": 3}), ("gradient_norm", {"rho": 0.1}),
    ("hessian_trace", {"probes": 3}), ("gauss_newton_trace", {"probes": 3}),
    ("hessian_trace", {"probes": 3, "product": "finite_difference"}),
])  # fmt: skip
def test_a_parametrization_that_jumps_has_no_sharpness(name, fields, dtype):
    found = acutance.measure(name, householder(), points(), dtype=dtype, **fields)
    assert found.status == "unsupported" and f"parametrization of {NAME} makes jump" in found.message
    assert "matrix_exp" in found.message and f'parameters: "!{NAME}"' in found.message
    assert acutance.measure(name, householder(), points(), dtype=dtype, parameters="!0.*", **fields).status == "ok"


def test_what_is_not_moved_is_measured():
    model = householder()
    surface = LossSurface(model, points())
    assert surface.loss().isfinite() and surface.logits().isfinite().all() and len(surface.activations("2")) == 1
    for call in (lambda: surface.loss(surface.w + 0), surface.gradient, lambda: list(surface.example_gradients())):
        with pytest.raises(Unsupported, match="makes jump"):
            call()
    parametrize.remove_parametrizations(model[0], "weight")
    assert acutance.measure("average_case", model, points(), rho=1e-3).status == "ok"


class Abs(nn.Module):
    """A kink, at which half of the parameters lie."""

    def forward(self, w):
        return (w - w.detach() * (torch.arange(w.numel()).view(w.shape) % 2)).abs()


class Steep(nn.Module):
    """Moves far with its parameter, and ten times as far with ten times the move."""

    def forward(self, w):
        return (1e3 * w).sin()


def kinked(layer, kind=Abs):
    parametrize.register_parametrization(layer, "weight", kind(), unsafe=True)
    return layer


SMOOTH = {
    "matrix exp": lambda: network(parametrizations.orthogonal, orthogonal_map="matrix_exp"),
    "cayley": lambda: network(parametrizations.orthogonal, orthogonal_map="cayley"),
    "weight norm": lambda: network(parametrizations.weight_norm),
    "spectral norm": lambda: network(parametrizations.spectral_norm),
    "kink": lambda: network(kinked),
    "steep": lambda: network(kinked, kind=Steep),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", SMOOTH)
def test_smooth_ones_and_kinks_are_measured(how, dtype):
    surface = LossSurface(SMOOTH[how]().eval(), points(), dtype=dtype)
    spent = surface.cost
    assert surface.loss(surface.w + 0).isfinite() and surface.core.functional.jumps == frozenset()
    assert surface.cost.forwards - spent.forwards == surface.n


def test_it_is_asked_once_a_model(monkeypatch):
    from acutance.checks import smoothness as module

    asked, ask = [], module._jumping
    monkeypatch.setattr(module, "_jumping", lambda functional: asked.append(1) or ask(functional))
    model = network(parametrizations.weight_norm)
    surface = LossSurface(model, points())
    surface.loss(surface.w + 0), surface.gradient(), surface.restricted("2.*").gradient()
    assert asked == [1]
