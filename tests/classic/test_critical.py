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
    # Half-way a quadratic has fallen by a quarter of eta g²; three quarters of that are seen from a quarter of the way on.
    assert 0.75 <= found.extras["fall"] / (found.extras["step"] * float(g @ g) / 4) <= 1 + 1e-9
    assert found.extras["evaluations"] == 5
    assert (found.cost.forwards, found.cost.backwards) == ((found.extras["evaluations"] + 1) * 4, 4)


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


# -- along the step of one loss, the rise of another ------------------------------------------------------

P = 6
HERE, THERE = (torch.linspace(0.5, 2.0, P, dtype=torch.float64), torch.linspace(3.0, 0.2, P, dtype=torch.float64))


def bowl(curvatures, centre, n=4):
    """Points at which the loss of weights is a quadratic of these curvatures around this centre."""
    return torch.zeros(n, 1, dtype=torch.float64), torch.cat([curvatures, centre]).expand(n, 2 * P).clone()


def bowls(logits, targets):
    """The mean over points of the quadratic that the target of each says."""
    a, c = targets.to(logits).chunk(2, dim=1)
    return (a * (logits - c) ** 2).sum(1).mean() / 2


def relative(w, own, other, **settings):
    return acutance.measure(
        "relative_critical_sharpness", Weights(w), own, validation=other, loss=bowls, m=4, **settings
    )


CENTRE = torch.linspace(-0.3, 0.4, P, dtype=torch.float64)
AT = torch.linspace(0.7, 1.2, P, dtype=torch.float64)
OWN, OTHER = bowl(HERE, 0 * CENTRE), bowl(THERE, CENTRE, n=7)
G1, G2 = HERE * AT, THERE * (AT - CENTRE)


@pytest.mark.parametrize("rtol", [0.5, 1e-3, 1e-9])
def test_relative_it_is_the_curvature_of_the_other_loss_along_the_step_of_this_one(rtol):
    found = relative(AT, OWN, OTHER, rtol=rtol)
    assert found.status is Status.OK
    assert found.value == pytest.approx(float((THERE * G1**2).sum() / (G1 @ G2)), rel=1e-9)
    assert found.extras["slope"] == pytest.approx(float(G1 @ G2), rel=1e-12)
    # A gradient on each of both sets of points, and losses on the seven of the other one alone.
    assert found.cost.forwards == 4 + 7 * (found.extras["evaluations"] + 1) and found.cost.backwards == 4 + 7


def test_relative_to_the_same_points_it_is_critical_sharpness():
    same = relative(AT, OWN, OWN)
    alone = acutance.measure("critical_sharpness", Weights(AT), OWN, loss=bowls)
    assert same.value == alone.value and same.extras["step"] == alone.extras["step"]


def test_relative_along_the_step_of_the_optimizer():
    u = -0.01 * torch.linspace(0.2, 3, P, dtype=torch.float64) * G1
    found = relative(AT, OWN, OTHER, direction="update", update={"w": u})
    assert found.value == pytest.approx(float((THERE * u**2).sum() / (-u @ G2)), rel=1e-9)
    assert found.extras["direction"] == "optimizer" and found.cost.backwards == 7
    assert relative(AT, OWN, OTHER, direction="update").value == relative(AT, OWN, OTHER).value
    uphill = relative(AT, OWN, OTHER, direction="update", update={"w": -u})
    assert uphill.status is Status.UNSUPPORTED and "does not fall along this step" in uphill.message


@pytest.mark.parametrize("centre", [2 * AT, 1.1 * AT])
def test_where_the_other_loss_rises_at_once_there_is_no_critical_step(centre):
    found = relative(AT, OWN, bowl(THERE, centre))
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    assert "the loss on the validation points does not fall" in found.message


def test_a_longer_step_that_lowers_the_other_loss_again_makes_no_value():
    # Down from w = 1 this loss falls; the other one rises first, and is far below further on.
    w = torch.full((P,), 1.0, dtype=torch.float64)
    points = torch.zeros(4, 1, dtype=torch.float64)

    def loss(logits, targets):
        x = logits.mean(1)
        return torch.where(targets[:, 0] > 0, x**2 / 2, torch.cos(8 * x - 7.5) + 3 * x).mean()

    found = acutance.measure(
        "relative_critical_sharpness", Weights(w), (points, torch.ones(4, 1)), validation=(points, torch.zeros(4, 1)),
        loss=loss,
    )  # fmt: skip
    slope = -8 * math.sin(0.5) + 3
    assert slope < 0 and math.cos(-7.5) < math.cos(0.5) + 3
    assert found.status is Status.UNSUPPORTED and "does not fall" in found.message


def test_relative_directions_that_are_none_are_told():
    still = relative(0 * AT, OWN, OTHER)
    assert still.status is Status.UNSUPPORTED and "gradient is exactly zero" in still.message
    there = relative(CENTRE, OWN, OTHER)
    assert there.status is Status.UNSUPPORTED and "does not fall" in there.message
    across = torch.zeros(P, dtype=torch.float64)
    across[0], across[1] = -G1[1], G1[0]
    orthogonal = relative(AT, OWN, bowl(torch.ones_like(AT), AT - across))
    assert orthogonal.status is Status.UNSUPPORTED and "with rounding" in orthogonal.message
    beyond = relative(AT, OWN, bowl(THERE * 1e307, torch.full_like(AT, -1e10)))
    assert beyond.status is Status.NONFINITE and math.isnan(beyond.value)


def test_relative_without_validation_points_it_is_unsupported():
    for found in (
        acutance.measure("relative_critical_sharpness", Weights(AT), OWN, loss=bowls),
        acutance.measure("relative_critical_sharpness", line(torch.square)),
    ):
        assert found.status is Status.UNSUPPORTED and "surface.validation" in found.message


def test_relative_it_follows_the_view():
    plain, normed = (
        acutance.measure("relative_critical_sharpness", PROBLEMS["slope"].surface(), logit_norm=normed).value
        for normed in (False, True)
    )
    assert math.isfinite(plain) and math.isfinite(normed) and plain != normed
    surface = PROBLEMS["tanh_mlp"].surface()
    found = acutance.measure("relative_critical_sharpness", surface, parameters="layers.1.*")
    part = surface.restricted("layers.1.*")
    other, g, eta = surface.companion().restricted("layers.1.*"), part.gradient()[1], 2 / found.value
    assert other.loss(part.w - 0.998 * eta * g) < other.loss(part.w) < other.loss(part.w - 1.002 * eta * g)
