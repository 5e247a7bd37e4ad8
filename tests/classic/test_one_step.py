"""One step uphill, a small box, the distance of a rise: against quadratics, corners counted out, and twins."""

import itertools
import math

import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.testing.models import Weights
from acutance.testing.problems import PROBLEMS, quadratic_parts
from acutance.testing.twins import TWINS

A, W = quadratic_parts()


def quadratic(offset=0.3):
    """The kit's quadratic, 1/2 (w - w*)' A (w - w*), this far from its minimum in every coordinate."""
    problem = PROBLEMS["slope"]
    return LossSurface(Weights(W + offset), problem.data(), problem.loss)


def rise(delta, offset=0.3):
    d = torch.full_like(W, offset)
    return float(0.5 * (d + delta) @ A @ (d + delta) - 0.5 * d @ A @ d)


def constant(value=0.0):
    """A surface whose loss does not depend on the weights."""
    return LossSurface(Weights(W.clone()), PROBLEMS["slope"].data(), lambda f, y: 0.0 * f.sum() + value)


# -- one step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["none", "elementwise"])
def test_the_step_is_that_of_the_optimizer(scaling):
    c = (W + 0.3).abs() if scaling == "elementwise" else torch.ones_like(W)
    g = A @ torch.full_like(W, 0.3)
    expected = rise(0.7 * c**2 * g / (c * g).norm())
    found = acutance.measure("sam_sharpness", quadratic(), rho=0.7, scaling=scaling)
    assert found.value == pytest.approx(expected, rel=1e-12) and found.status is Status.OK
    assert (found.cost.forwards, found.cost.backwards) == (8, 4)


def test_a_small_step_rises_by_the_norm_of_the_gradient():
    g = A @ torch.full_like(W, 0.3)
    found = acutance.measure("sam_sharpness", quadratic(), rho=1e-6).value
    assert found == pytest.approx(1e-6 * float(g.norm()), rel=1e-4)


def test_the_adaptive_step_is_not_changed_by_rescaling():
    for twin in TWINS:
        if twin.invariance == "rescaling":
            values = [acutance.measure("sam_sharpness", problem.surface(), rho=0.3, scaling="elementwise").value
                      for problem in (twin.original, twin.changed)]  # fmt: skip
            assert values[0] == pytest.approx(values[1], rel=1e-8), twin.name


def test_it_is_no_more_than_the_worst_case():
    surface = PROBLEMS["tanh_mlp"].surface()
    step = acutance.measure("sam_sharpness", surface, rho=0.5).value
    worst = acutance.measure("worst_case", surface, rho=0.5, norm="l2", scaling="none").value
    assert 0 < step <= worst


@pytest.mark.parametrize("measure", ["sam_sharpness", "eps_flatness"])
def test_without_a_gradient_there_is_no_direction(measure):
    settings = {"rho": 0.1} if measure == "sam_sharpness" else {}
    for surface in (quadratic(0.0), constant()):
        found = acutance.measure(measure, surface, **settings)
        assert found.status is Status.UNSUPPORTED and "gradient is exactly zero" in found.message


def test_specs_share_the_gradient():
    surface = PROBLEMS["tanh_mlp"].surface()
    first = acutance.measure("sam_sharpness", surface, rho=0.1)
    second = acutance.measure("sam_sharpness", surface, rho=0.2)
    assert first.cost.backwards == surface.n and second.cost.backwards == 0 and second.value > first.value


# -- the box ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "eps", "share"), [(0.3, 0.01, 1.0), (0.3, 0.05, 0.9), (0.0, 0.05, 0.6)])
def test_the_box_has_its_largest_rise_in_a_corner(offset, eps, share):
    half = eps * ((W + offset).abs() + 1)
    corners = (torch.tensor(signs, dtype=torch.float64) for signs in itertools.product([-1, 1], repeat=8))
    best = max(rise(half * signs, offset) for signs in corners)
    f = rise(torch.zeros(8), offset) + float(0.5 * offset**2 * A.sum())
    found = acutance.measure("keskar_sharpness", quadratic(offset), eps=eps)
    # In a large box the quadratic has other corners that are local maxima: the search is honest about one of them.
    assert share * (1 - 1e-9) <= found.value / (100 * best / (1 + f)) <= 1 + 1e-9
    assert found.extras["clean_loss"] == pytest.approx(f, abs=1e-15)


def test_the_search_in_a_subspace_is_that_of_its_coordinates():
    from acutance.numerics.draws import Streams
    from acutance_classic.flatness.one_step_numerics import Subspace, random_directions

    surface, w = quadratic(), W + 0.3
    directions = random_directions(3, w, Streams("test"))
    assert torch.allclose(directions.norm(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-15)
    objective = Subspace(surface, directions)
    assert torch.allclose(objective.units, (torch.linalg.pinv(directions.T) @ w).abs() + 1, atol=1e-12)
    x = torch.tensor([0.2, -0.1, 0.05], dtype=torch.float64)
    delta = directions.T @ (objective.units * x)
    loss, _, slope = objective.gradient(x)
    d = torch.full_like(W, 0.3) + delta
    assert float(loss) == pytest.approx(float(0.5 * d @ A @ d), rel=1e-12)
    assert float(objective.value(x)[0]) == pytest.approx(float(loss), rel=1e-12)
    assert torch.allclose(slope.flat(), objective.units * (directions @ (A @ d)), atol=1e-12)


def test_a_subspace_has_no_more_dimensions_than_there_are_weights():
    for k in (1, 8):
        found = acutance.measure("keskar_sharpness", quadratic(), eps=0.05, subspace=k)
        assert found.status is Status.OK and found.value > 0
    again = acutance.measure("keskar_sharpness", quadratic(), eps=0.05, subspace=8, seed=1)
    assert again.value != found.value
    many = acutance.measure("keskar_sharpness", quadratic(), subspace=9)
    assert many.status is Status.UNSUPPORTED and many.message.startswith("8 weights span no 9 directions")


def test_a_flat_loss_has_no_rise_and_one_below_minus_one_no_ratio():
    assert acutance.measure("keskar_sharpness", constant()).value == 0
    found = acutance.measure("keskar_sharpness", constant(-2.0))
    assert found.status is Status.UNSUPPORTED and "f > -1" in found.message


# -- the distance of a rise -------------------------------------------------------------------------------


@pytest.mark.parametrize(("eps", "rtol"), [(0.1, 1e-3), (3.0, 1e-3), (0.1, 1e-9)])
def test_the_distance_solves_the_quadratic(eps, rtol):
    g = A @ torch.full_like(W, 0.3)
    slope, curvature = float(g @ g), float(g @ A @ g)
    t = (-slope + math.sqrt(slope**2 + 2 * curvature * eps)) / curvature
    found = acutance.measure("eps_flatness", quadratic(), eps=eps, rtol=rtol)
    assert found.value == pytest.approx(1 / (t * float(g.norm())), rel=max(rtol**2, 1e-12))
    assert found.cost.forwards == (1 + found.extras["evaluations"]) * 4


def test_a_rise_that_is_never_reached():
    class Saturating(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

        def forward(self, x):
            return self.w.expand(len(x), 1)

    points = torch.zeros(3, 1), torch.zeros(3, 1)
    surface = LossSurface(Saturating(), points, lambda f, y: torch.tanh(f).mean())
    reached = acutance.measure("eps_flatness", surface, eps=0.3)
    assert 1 / reached.value == pytest.approx(math.atanh(math.tanh(0.5) + 0.3) - 0.5, rel=1e-6)
    never = acutance.measure("eps_flatness", surface, eps=0.6)
    assert never.status is Status.UNSUPPORTED and "the loss stays below a rise of 0.6" in never.message
