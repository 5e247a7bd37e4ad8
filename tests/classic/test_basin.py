"""The size of the basin, against quadratics, where the rise of the loss under noise is known exactly."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.numerics.draws import Streams
from acutance.plugins import catalog

RNG = Streams(3)


class Point(nn.Module):
    """Its outputs are its weights."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        return self.w.expand(len(x), -1)


def quadratic(offset=0.0, p=30, seed=0):
    """1/2 d^T A d with d = w - m, at d = offset in every coordinate."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(p, p, generator=g, dtype=torch.float64) / p**0.5
    a, m = root @ root.T, torch.randn(p, generator=g, dtype=torch.float64)

    def loss(f, y):
        d = f - m
        return 0.5 * ((d @ a) * d).sum(1).mean()

    return a, m, LossSurface(Point(m + offset), (torch.zeros(3, 1).double(), torch.zeros(3, p).double()), loss)


def evaluate(surface, **settings):
    measure = catalog().measure("basin_size")
    return measure.evaluate(surface, measure.Spec(**settings), RNG)


@pytest.mark.parametrize("offset", [0.0, 0.3])
@pytest.mark.parametrize("scaling", ["none", "elementwise"])
def test_the_rise_of_a_quadratic_under_this_noise_is_a_quadratic_in_the_scale(offset, scaling):
    a, _, surface = quadratic(offset)
    c = torch.ones_like(surface.w) if scaling == "none" else surface.w.abs()
    noises = [c * RNG.normal("noise", k, surface.w) for k in range(20)]
    square = np.mean([float(z @ a @ z) / 2 for z in noises])
    slope = np.mean([float(z @ a @ torch.full_like(z, offset)) for z in noises])
    exact = (-slope + math.sqrt(slope**2 + 4 * square * 0.1)) / (2 * square)
    found = evaluate(surface, scaling=scaling, rtol=1e-4)
    assert found.value <= exact < found.value * (1 + 1e-4)
    assert found.extras["clean_loss"] == pytest.approx(float(surface.loss()))


@pytest.mark.parametrize("drop", [0.01, 1.0])
def test_in_expectation_it_is_the_root_of_twice_the_drop_over_the_trace(drop):
    a, _, surface = quadratic()
    for scaling, c in (("none", torch.ones_like(surface.w)), ("elementwise", surface.w.abs())):
        exact = math.sqrt(2 * drop / float((a.diagonal() * c**2).sum()))
        found = evaluate(surface, scaling=scaling, drop=drop, draws=100, rtol=0.01)
        # The relative error of the mean of z^T A z over 100 draws, halved by the root.
        h = a * c[:, None] * c
        tolerance = 3 * math.sqrt(2 * float((h * h).sum()) / 100) / float(h.trace()) / 2 + 0.01
        assert tolerance < 0.1 and found.value == pytest.approx(exact, rel=tolerance)


def test_average_case_sharpness_at_that_radius_is_the_drop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(30, 4, dtype=torch.float64)
    data = x, model(x).argmax(1).detach()
    sigma = acutance.measure("basin_size", model, data, drop=0.05, draws=150, rtol=0.03).value
    rise = acutance.measure("average_case", model, data, rho=sigma, draws=150)
    assert abs(rise.value - 0.05) < 5 * rise.stderr and rise.stderr < 0.01


def test_the_error_of_a_linear_classifier_under_noise_is_a_closed_form():
    n = 150
    model, margins = nn.Linear(n, 2, bias=False, dtype=torch.float64), np.linspace(-0.1, 2, n)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.tensor(margins) / 2, -torch.tensor(margins) / 2]))
    surface = LossSurface(model, (torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long)))
    clean = (margins < 0).mean()
    exact = brentq(lambda s: norm.cdf(-margins / (math.sqrt(2) * s)).mean() - clean - 0.1, 0.01, 5)
    found = evaluate(surface, scaling="none", of="error", draws=60, rtol=0.002)
    assert found.value == pytest.approx(exact, rel=0.06)
    assert found.extras["clean_error"] == pytest.approx(clean)


def test_the_logit_normalized_loss_has_a_basin_of_its_own():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x = torch.randn(30, 4, dtype=torch.float64)
    data = x, model(x).argmax(1).detach()
    plain, normed = (acutance.measure("basin_size", model, data, logit_norm=flag).value for flag in (False, True))
    with torch.no_grad():
        model.weight.mul_(5)
        model.bias.mul_(5)
    assert acutance.measure("basin_size", model, data, logit_norm=True).value == pytest.approx(normed)
    assert acutance.measure("basin_size", model, data).value != pytest.approx(plain, rel=0.02)


def test_cost_and_what_cannot_be_found():
    _, _, surface = quadratic()
    measure = catalog().measure("basin_size")
    found = evaluate(surface, draws=4)
    assert surface.cost.forwards == surface.n * (found.extras["passes"] + 1)
    assert found.extras["passes"] <= measure.passes(measure.Spec(draws=4)).forwards - 1
    for settings, message in (
        ({"smallest": 50.0}, "the loss leaves its limit at the smallest scale already: take smallest below 50"),
        ({"largest": 1e-4}, "the loss is within its limit at the largest scale still: take largest above 0.0001"),
    ):
        missed = evaluate(surface, **settings)
        assert missed.status is Status.NOT_CONVERGED and missed.message == message and math.isnan(missed.value)
    numbers = acutance.measure("basin_size", surface, of="error")
    assert numbers.status is Status.UNSUPPORTED and "class labels" in numbers.message
    zero = LossSurface(nn.Linear(2, 2, bias=False).double(), (torch.randn(4, 2).double(), torch.tensor([0, 1, 0, 1])))
    with torch.no_grad():
        zero.model.weight.zero_()
    still = LossSurface(zero.model, (zero.inputs, zero.targets))
    assert "none of them moves" in acutance.measure("basin_size", still).message


def test_a_loss_that_may_be_negative_is_averaged_to_the_end():
    """The first noises may raise the loss beyond the limit, and the others bring the mean back."""
    point = Point(torch.tensor([0.0, 1.0], dtype=torch.float64))

    def tilted(f, y):
        return (f[:, 0] + f[:, 0] ** 2 / 2).mean()

    surface = LossSurface(point, (torch.zeros(2, 1).double(), torch.zeros(2, 2).double()), tilted)
    zs = [float(RNG.normal("noise", k, surface.w)[0]) for k in range(8)]
    slope, square = np.mean(zs), np.mean(np.square(zs)) / 2
    exact = (-slope + math.sqrt(slope**2 + 4 * square * 0.1)) / (2 * square)
    found = evaluate(surface, scaling="none", draws=8, rtol=1e-3)
    assert found.value <= exact < found.value * (1 + 1e-3)
