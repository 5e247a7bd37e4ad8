"""Averages over noise, against Gaussian integrals, and the same losses counted one by one."""

import math

import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import Weights
from acutance.testing.problems import PROBLEMS, quadratic_parts
from acutance.testing.twins import TWINS

A, W = quadratic_parts()
D = torch.full_like(W, 0.3)
N, P = 4, 8
LOSS = float(D @ A @ D / 2)
MEASURES = {"low_pass_filter": {}, "local_entropy": {"gamma": 50.0}, "local_energy": {}}


def surface(name="slope"):
    return PROBLEMS[name].surface()


def within(found, expected, errors=4):
    assert found.status is Status.OK and found.stderr > 0
    assert abs(found.value - expected) <= errors * found.stderr, (found.value, expected, found.stderr)


# -- the loss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["none", "elementwise", "filter"])
def test_the_filter_adds_half_the_trace_of_a_quadratic(scaling):
    w = W + D
    # A vector has no filters: each entry is one.
    c = torch.ones_like(w) if scaling == "none" else w.abs()
    found = acutance.measure("low_pass_filter", surface(), sigma=0.4, scaling=scaling, draws=1000)
    within(found, LOSS + 0.4**2 / 2 * float((A.diag() * c**2).sum()))
    assert found.stderr < 0.05 * found.value and found.cost.forwards == 1000 * N


def test_a_narrow_filter_sees_the_loss_itself():
    model = surface("tanh_mlp")
    assert acutance.measure("low_pass_filter", model, sigma=1e-9).value == pytest.approx(float(model.loss()), rel=1e-7)


@pytest.mark.parametrize("name", ["tanh_mlp", "conv_bn"])
def test_specs_share_the_walk_and_have_the_values_they_have_alone(name):
    from acutance.numerics.draws import Streams
    from acutance.plugins import catalog

    measure = catalog().measure("low_pass_filter")
    settings = [{"draws": 5}, {"draws": 3, "logit_norm": True}, {"draws": 4, "sigma": 0.1, "scaling": "filter"},
                {"draws": 2, "parameters": "*.weight"}]  # fmt: skip
    specs, rng = [measure.Spec(**s) for s in settings], Streams("test")
    together = surface(name)
    values = [e.value for e in measure.evaluate_many(together, specs, rng)]
    assert together.cost.forwards == (5 + 4 + 2) * together.n
    assert values == pytest.approx([measure.evaluate(surface(name), spec, rng).value for spec in specs], rel=1e-12)
    # By hand, one draw after the other.
    alone = surface(name)
    noise = [rng.normal("noise", k, alone.w) for k in range(5)]
    losses = [float(alone.loss(alone.w + 0.01 * z)) for z in noise]
    assert values[0] == pytest.approx(math.fsum(losses) / 5, rel=1e-12)
    part = alone.restricted("*.weight")
    noise = [rng.normal("noise", k, part.w) for k in range(2)]
    assert values[3] == pytest.approx(math.fsum(float(part.loss(part.w + 0.01 * z)) for z in noise) / 2, rel=1e-12)


# -- local entropy ----------------------------------------------------------------------------------------


def gaussian_entropy(gamma):
    """The integral over a quadratic: log of exp(-n L - gamma/2 |w - w'|^2) over all of R^p."""
    widened = torch.eye(P, dtype=torch.float64) + N * A / gamma
    inner = N * float(D @ A @ torch.linalg.solve(widened, D)) / 2
    return -float(torch.logdet(widened)) / 2 - inner, P / 2 * math.log(2 * math.pi / gamma)


def test_local_entropy_is_the_gaussian_integral():
    log_mean, constant = gaussian_entropy(50.0)
    found = acutance.measure("local_entropy", surface(), gamma=50.0, draws=2000)
    within(found, log_mean + constant)
    assert found.stderr < 0.03 and found.extras["log_mean"] == pytest.approx(found.value - constant, abs=1e-12)
    assert 500 < found.extras["effective_draws"] < 2000


def test_a_stiff_spring_leaves_the_likelihood_of_w():
    model = surface("tanh_mlp")
    found = acutance.measure("local_entropy", model, gamma=1e16)
    assert found.extras["log_mean"] == pytest.approx(-model.n * float(model.loss()), rel=1e-6)
    assert found.extras["effective_draws"] == pytest.approx(100, rel=1e-6)


def test_a_loss_that_is_a_sum_is_not_multiplied_again():
    model, points = nn.Linear(2, 1, bias=False).double(), (torch.ones(5, 2).double(), torch.zeros(5, 1).double())
    mean = acutance.measure("local_entropy", LossSurface(model, points, loss="mse"), gamma=30.0)
    total = acutance.measure("local_entropy", LossSurface(model, points, loss="squared_sum"), gamma=30.0)
    assert total.value == pytest.approx(mean.value, rel=1e-12)


def test_few_draws_that_carry_the_mean_are_told():
    found = acutance.measure("local_entropy", surface(), gamma=1e-3, draws=20)
    assert found.status is Status.NOT_CONVERGED and math.isfinite(found.value)
    assert "of 20 draws carry the mean" in found.message and found.extras["effective_draws"] < 10


def test_its_gradient_is_that_of_the_gaussian_integral():
    gamma = 50.0
    pulled = torch.linalg.solve(torch.eye(P, dtype=torch.float64) + N * A / gamma, D)
    expected = float((N * A @ pulled).norm())
    # The same, as the distance of the mean of the Gibbs measure, and as differences of the entropy itself.
    mean = torch.linalg.solve(N * A + gamma * torch.eye(P, dtype=torch.float64), N * A @ D)
    assert expected == pytest.approx(gamma * float(mean.norm()), rel=1e-12)
    found = acutance.measure("gradient_of_local_entropy", surface(), gamma=gamma, steps=600)
    within(found, expected)
    assert found.stderr < 0.1 * expected and found.extras["agreement"] > 0.9
    assert (found.cost.forwards, found.cost.backwards) == (600 * N, 600 * N)


def test_a_stiff_spring_leaves_the_gradient():
    model = surface("tanh_mlp")
    expected = model.n * float(model.gradient()[1].norm())
    found = acutance.measure("gradient_of_local_entropy", model, gamma=1e14, steps=20)
    assert found.value == pytest.approx(expected, rel=1e-5)


def test_chains_that_disagree_give_no_value():
    found = acutance.measure("gradient_of_local_entropy", surface("quadratic"), gamma=50.0, steps=20)
    assert found.status is Status.NOT_CONVERGED and "point different ways" in found.message
    assert math.isnan(found.value)
    steep = LossSurface(Weights(W + D), PROBLEMS["slope"].data(), lambda f, y: 1e9 * (f**4).sum(1).mean())
    found = acutance.measure("gradient_of_local_entropy", steep, gamma=1.0)
    assert found.status is Status.NONFINITE and "smaller step" in found.message
    constant = LossSurface(Weights(W.clone()), PROBLEMS["slope"].data(), lambda f, y: 0 * f.sum())
    assert acutance.measure("gradient_of_local_entropy", constant).value == 0


# -- local energy -----------------------------------------------------------------------------------------


def test_the_error_of_a_linear_classifier_rises_as_its_margin_says():
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.5], [0.2, -0.3]]))
    x = torch.tensor([[0.7, 0.4]], dtype=torch.float64)
    margin = float((model.weight[0] - model.weight[1]).detach() @ x[0])
    spread = 1.5 * float((model.weight.detach() ** 2 @ x[0] ** 2).sum().sqrt())
    expected = 0.5 * math.erfc(margin / spread / math.sqrt(2))
    found = acutance.measure("local_energy", LossSurface(model, (x, torch.tensor([0]))), sigma=1.5, draws=1000)
    within(found, expected)
    wrong = acutance.measure("local_energy", LossSurface(model, (x, torch.tensor([1]))), sigma=1.5, draws=1000)
    within(wrong, -expected)
    assert wrong.extras["clean_error"] == 1 and wrong.extras["perturbed_error"] == pytest.approx(1 + wrong.value)


def test_it_is_not_changed_by_rescaling():
    for twin in TWINS:
        if twin.invariance in ("rescaling", "output_scale"):
            a, b = (
                acutance.measure("local_energy", p.surface(), draws=10, sigma=0.5)
                for p in (twin.original, twin.changed)
            )
            assert a.value == b.value != 0, twin.name


def test_without_classes_there_is_no_error():
    points = torch.randn(4, 2), torch.randn(4, 1)
    found = acutance.measure("local_energy", LossSurface(nn.Linear(2, 1), points, loss="mse"))
    assert found.status is Status.UNSUPPORTED and "no classes" in found.message


@pytest.mark.parametrize(
    ("measure", "settings"),
    [("low_pass_filter", {"sigma": 0}), ("low_pass_filter", {"draws": 0}), ("local_entropy", {"gamma": -1}),
     ("local_energy", {"scaling": 3}), ("gradient_of_local_entropy", {"steps": 19}),
     ("gradient_of_local_entropy", {"step": 2})],
)  # fmt: skip
def test_bad_settings_are_refused(measure, settings):
    with pytest.raises(UserError, match=f"{measure}\\.{next(iter(settings))}"):
        acutance.measure(measure, surface(), **settings)


@pytest.mark.parametrize("measure", MEASURES)
def test_losses_that_are_no_numbers_are_told(measure):
    from acutance.testing.problems import DEGENERATE

    found = acutance.measure(measure, DEGENERATE["overflow"].surface(), draws=3, **MEASURES[measure])
    assert not math.isfinite(found.value) and found.status is not Status.OK and found.message
