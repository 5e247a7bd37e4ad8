"""Worst-case radii, against linear classifiers, whose worst perturbation is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.plugins import catalog

FAMILY = ("sharpness_flatness", "sharpness_magnitude_flatness", "sharpness_orig", "sharpness_init")


def classifier(x, w, initial=True, **options):
    """A linear map w, (2, d), with points that are all of the first class."""
    model, start = (nn.Linear(len(w[0]), 2, bias=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(w, dtype=torch.float64))
        start.weight.fill_(0.25)
    data = torch.as_tensor(x, dtype=torch.float64), torch.zeros(len(x), dtype=torch.long)
    return LossSurface(model, data, initial=start if initial else None, **options)


def rays(n=20, d=5, seed=0):
    """Points in one orthant, of a class by w: one vertex of a box is the worst for all of them at once."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 1.5, (n, d)) * rng.uniform(0.2, 2, (n, 1))
    w = np.stack([rng.uniform(0.2, 1.0, d), -rng.uniform(0.2, 1.0, d)])
    return x, w


def radii(x, w, box):
    """At which alpha each point errs: its margin is m(alpha) = (w_0 - w_1) x - sum of box widths times |x|."""
    margins = x @ (w[0] - w[1])
    per_alpha, fixed = box
    return (margins - np.abs(x) @ fixed.sum(0)) / (np.abs(x) @ per_alpha.sum(0))


@pytest.mark.parametrize(("deviation", "allowed"), [(0.1, 2), (0.3, 6), (0.01, 0)])
def test_the_radius_of_a_linear_classifier_is_a_closed_form(deviation, allowed):
    x, w = rays()
    ones = np.ones_like(w)
    exact = np.sort(radii(x, w, (ones, 0 * ones)))[allowed]  # so many of the 20 may err
    found = acutance.measure("sharpness_flatness", classifier(x, w), deviation=deviation, rtol=1e-3)
    assert found.extras["alpha"] <= exact < found.extras["alpha"] * 1.001
    assert found.value == pytest.approx(found.extras["alpha"] ** -2)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.1])
def test_the_radius_in_units_of_weights_is_a_closed_form(eps):
    x, w = rays(seed=1)
    exact = np.sort(radii(x, w, (np.abs(w), np.full_like(w, eps))))[2]
    found = acutance.measure("sharpness_magnitude_flatness", classifier(x, w), eps=eps, rtol=1e-3)
    assert found.extras["alpha"] <= exact < found.extras["alpha"] * 1.001


def test_the_radius_is_no_smaller_than_the_safe_one():
    """By all vertices of a box in four dimensions, for points of both classes: the ascent may miss the worst of them."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 2))
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    data = torch.as_tensor(x), model(torch.as_tensor(x)).argmax(1).detach()
    surface = LossSurface(model, data)
    found = acutance.measure("sharpness_flatness", surface, rtol=1e-3)
    corners = [torch.tensor(s, dtype=torch.float64) for s in np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T]

    def worst(alpha):
        return max(float(surface.errors(surface.w + alpha * s).mean()) for s in corners)

    unsafe = next(alpha for alpha in np.geomspace(1e-3, 1, 700) if worst(float(alpha)) > 0.1)
    assert unsafe <= found.extras["alpha"] * 1.02
    assert found.extras["alpha"] < 4 * unsafe


def test_the_bounds():
    x, w = rays()
    surface = classifier(x, w, num_train=700)
    alpha = acutance.measure("sharpness_flatness", surface).extras["alpha"]
    for name, distance in (("sharpness_orig", w), ("sharpness_init", w - 0.25)):
        expected = (distance**2).sum() * math.log(2 * w.size) / (4 * alpha**2) + math.log(700 / alpha) + 10
        found = acutance.measure(name, surface)
        assert found.value == pytest.approx(expected, rel=1e-12) and found.cost.units == 0


def test_cost_is_at_most_what_was_announced():
    x, w = rays()
    surface = classifier(x, w)
    measure = catalog().measure("sharpness_flatness")
    found, most = acutance.measure("sharpness_flatness", surface), measure.passes(measure.Spec())
    assert most.forwards == 13 * 20 + 1 and most.backwards == 13 * 19 + 1
    assert found.cost.forwards == surface.n * (found.extras["points"] + 1)
    assert 13 < found.extras["points"] < 13 * 20 and found.cost.backwards < surface.n * most.backwards


@pytest.mark.parametrize("name", FAMILY)
def test_what_cannot_be_found_is_told(name):
    x, w = rays()
    below = acutance.measure(name, classifier(x, w), smallest=5.0)
    assert below.status is Status.NOT_CONVERGED and "take smallest below 5" in below.message
    above = acutance.measure(name, classifier(x, w), largest=1e-3)
    assert above.status is Status.NOT_CONVERGED and "take largest above 0.001" in above.message
    targets = torch.randn(6, 1).double()
    start = nn.Linear(3, 1).double()
    numbers = acutance.measure(
        name, nn.Linear(3, 1).double(), (torch.randn(6, 3).double(), targets), loss="mse", initial=start
    )
    assert numbers.status is Status.UNSUPPORTED and "class labels" in numbers.message
    flat = acutance.measure(name, classifier(1e4 * x, w))
    assert flat.status is Status.UNSUPPORTED and "gradient is exactly zero" in flat.message


def test_initial_weights_are_never_made_up():
    x, w = rays()
    surface = classifier(x, w, initial=False)
    found = acutance.measure("sharpness_init", surface)
    assert found.status is Status.UNSUPPORTED and "initial weights" in found.message and surface.cost.units == 0
