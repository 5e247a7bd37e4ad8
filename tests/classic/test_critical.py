"""The critical step, against the curvature of quadratics, counted-out losses and what has no such step."""

import math

import pytest
import torch

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import Weights
from acutance.testing.problems import PROBLEMS, quadratic_parts

A, W = quadratic_parts()
POINTS = torch.zeros(3, 1), torch.zeros(3, 1)


def line(f, w=0.5, dtype=torch.float64):
    """A surface of one weight whose loss is f of it."""
    return LossSurface(Weights(torch.tensor([w], dtype=dtype)), POINTS, lambda logits, y: f(logits[0, 0]))


@pytest.mark.parametrize("rtol", [0.5, 1e-3, 1e-9])
def test_along_the_gradient_of_a_quadratic_it_is_the_directional_sharpness(rtol):
    g = A @ torch.full_like(W, 0.3)
    surface = PROBLEMS["slope"].surface()
    found = acutance.measure("critical_sharpness", surface, rtol=rtol)
    assert found.value == pytest.approx(float(g @ A @ g / (g @ g)), rel=1e-9) and found.status is Status.OK
    assert found.value == pytest.approx(
        acutance.measure("directional_sharpness", surface, scaling="none").value, rel=1e-9
    )
    # Half-way a quadratic has fallen by a quarter of eta g².
    assert found.extras["fall"] == pytest.approx(found.extras["step"] * float(g @ g) / 4, rel=1e-6)
    assert (found.cost.forwards, found.cost.backwards) == ((found.extras["evaluations"] + 2) * 4, 4)


def test_along_the_step_of_the_optimizer_the_scale_is_that_of_the_step():
    # A preconditioned step from a quadratic: lambda = u'Hu / <-g, u>, which is 2 / eta for the step u.
    g = A @ torch.full_like(W, 0.3)
    u = -0.01 * torch.linspace(0.2, 3, 8, dtype=torch.float64) * g
    points, loss = PROBLEMS["slope"].data(), PROBLEMS["slope"].loss
    found = acutance.measure(
        "critical_sharpness", Weights(W + 0.3), points, loss=loss, direction="update", update={"w": u}
    )
    assert found.value == pytest.approx(float(u @ A @ u / (-g @ u)), rel=1e-9)
    assert found.extras["direction"] == "optimizer" and found.cost.backwards == 0
    plain = [
        acutance.measure("critical_sharpness", PROBLEMS["slope"].surface(), direction=d) for d in ("update", "gradient")
    ]
    assert plain[0].value == plain[1].value and plain[0].extras["direction"] == "gradient"
    uphill = acutance.measure(
        "critical_sharpness", Weights(W + 0.3), points, loss=loss, direction="update", update={"w": -u}
    )
    assert uphill.status in (Status.UNSUPPORTED, Status.NOT_CONVERGED) and math.isnan(uphill.value)


@pytest.mark.parametrize("name", ["tanh_mlp", "relu_mlp", "conv_bn", "attention", "dict_input"])
def test_just_before_the_step_the_loss_is_lower_and_just_after_it_higher(name):
    surface = PROBLEMS[name].surface()
    found = acutance.measure("critical_sharpness", surface)
    clean, g = surface.gradient()
    eta = 2 / found.value
    assert surface.loss(surface.w - 0.998 * eta * g) < clean < surface.loss(surface.w - 1.002 * eta * g)


def test_the_first_of_several_steps_is_found():
    # From w = 0.5 down: f falls, is where it was at 0.1, then falls and rises again further out.
    surface = line(lambda w: (w - 0.1) * (w - 0.5) * (w + 1) * (w + 1.5) + 1)
    found = acutance.measure("critical_sharpness", surface)
    slope = 0.4 * 1.5 * 2.0
    assert found.extras["step"] * slope == pytest.approx(0.4, rel=1e-6)


def test_it_follows_the_normalized_loss_and_a_part_of_the_parameters():
    surface = PROBLEMS["tanh_mlp"].surface()
    plain = acutance.measure("critical_sharpness", surface)
    normed = acutance.measure("critical_sharpness", surface, logit_norm=True)
    part = acutance.measure("critical_sharpness", surface, parameters="layers.1.*")
    assert len({plain.value, normed.value, part.value}) == 3
    view = surface.restricted("layers.1.*")
    clean, g = view.gradient()
    assert (
        view.loss(view.w - 1.01 * part.extras["step"] * g) > clean > view.loss(view.w - 0.99 * part.extras["step"] * g)
    )


def test_without_a_gradient_there_is_no_direction():
    found = acutance.measure("critical_sharpness", PROBLEMS["quadratic"].surface())
    assert found.status is Status.UNSUPPORTED and "gradient is exactly zero" in found.message


def test_a_loss_that_only_falls_has_no_critical_step():
    found = acutance.measure("critical_sharpness", line(lambda w: torch.sigmoid(w)))
    assert found.status is Status.UNSUPPORTED and "rises with none of the 64 steps" in found.message


def test_a_gradient_that_points_nowhere_down_is_told():
    # The kink is at the weight itself: torch's subgradient of |w| at 0 is 0, of this one it is not.
    found = acutance.measure("critical_sharpness", line(lambda w: torch.relu(w) * 2 + torch.relu(-w) + w * 0 + 1, 0.0))
    assert found.status is Status.UNSUPPORTED


def test_a_plateau_of_rounding_is_told():
    # Curvature 1 around 1e-6: the loss of 1 falls by 5e-13, which float32 does not see and float64 does.
    def surface(dtype):
        return LossSurface(
            Weights(torch.tensor([1e-6], dtype=dtype)), POINTS, lambda f, y: (f[0, 0].to(dtype) ** 2 / 2 + 1).double()
        )

    double = acutance.measure("critical_sharpness", surface(torch.float64))
    assert double.status is Status.OK and double.value == pytest.approx(1, rel=1e-3)
    single = acutance.measure("critical_sharpness", surface(torch.float32))
    assert single.status in (Status.UNSUPPORTED, Status.NOT_CONVERGED) and "rounding" in single.message
    assert math.isnan(single.value)


def test_a_loss_that_leaves_the_numbers_counts_as_risen():
    found = acutance.measure("critical_sharpness", line(lambda w: -torch.log(1 + w) + w * 3 - 1, 0.5))
    assert found.status is Status.OK and math.isfinite(found.value)


@pytest.mark.parametrize("settings", [{"rtol": 0}, {"rtol": 1}, {"direction": "updat"}, {"rho": 1}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(UserError, match=f"critical_sharpness\\.{next(iter(settings))}"):
        acutance.measure("critical_sharpness", line(torch.square), **settings)
