"""The local learning coefficient against stationary distributions that are known exactly."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import MLP, Weights, mlp_data
from acutance_classic.langevin import trends

N_BETA = 100 / math.log(100)
CURVATURES = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 8.0], dtype=torch.float64)


def quadratic(logits, targets):
    """sum_j h_j w_j^2 / 2, with the minimum at 0."""
    return (0.5 * CURVATURES * logits**2).sum(1).mean()


def product(logits, targets):
    """w_1^2 w_2^2."""
    return (logits[:, 0] ** 2 * logits[:, 1] ** 2).mean()


def surface(loss, w, n=100):
    w = torch.as_tensor(w, dtype=torch.float64)
    points = torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, len(w), dtype=torch.float64)
    return LossSurface(Weights(w), points, loss)


def expected(n_beta, gamma, step, burn_in, draws):
    r"""Mean of n beta L over the draws: delta_t is Gaussian of variance v (1 - a^{2t}), a = 1 - step k / 2,
    v = 1 / (k (1 - step k / 4)), k = n beta h + gamma."""
    k = n_beta * CURVATURES + gamma
    a, v = 1 - step * k / 2, 1 / (k * (1 - step * k / 4))
    t = torch.arange(burn_in + 1, burn_in + draws + 1, dtype=torch.float64)[:, None]
    return float((n_beta * CURVATURES / 2 * v * (1 - a ** (2 * t))).sum(1).mean())


@pytest.mark.parametrize(("gamma", "step", "burn_in"), [(0.0, 2e-3, 100), (20.0, 1e-2, 30), (5.0, 1e-3, 0)])
def test_the_chains_have_the_distribution_of_a_quadratic(gamma, step, burn_in):
    """Without localization, and with a small step, half of the number of parameters."""
    settings = {"localization": gamma, "step": step, "burn_in": burn_in, "draws": 150, "chains": 8}
    found = acutance.measure("local_learning_coefficient", surface(quadratic, torch.zeros(6)), **settings)
    exact = expected(N_BETA, gamma, step, burn_in, 150)
    assert abs(found.value - exact) < 4 * found.stderr and found.stderr < 0.15 * exact
    assert found.extras["n_beta"] == pytest.approx(N_BETA) and found.extras["clean_loss"] == 0
    if gamma == 0:
        assert found.status is Status.OK and exact == pytest.approx(3, rel=0.1)


def test_a_singular_minimum_has_less():
    """L = w1^2 w2^2 has lambda = 1/2 of multiplicity 2; the mean at finite n beta = b is -b d log Z / db with
    Z = int exp(-gamma x^2 / 2) (gamma + 2 b x^2)^(-1/2) dx, the second weight integrated out."""
    b, gamma = 1000.0, 4.0

    def log_z(b):
        def density(x):
            return math.exp(-gamma * x * x / 2) / math.sqrt(gamma + 2 * b * x * x)

        return math.log(quad(density, -6, 6, points=[-0.1, 0, 0.1])[0])

    exact = -(log_z(b * 1.001) - log_z(b / 1.001)) / (2 * math.log(1.001))
    assert 0.25 < exact < 0.5
    settings = {"localization": gamma, "beta": 10.0, "step": 2e-3, "burn_in": 100, "draws": 700, "chains": 8}
    found = acutance.measure("local_learning_coefficient", surface(product, [0.0, 0.0]), **settings)
    assert abs(found.value - exact) < 4 * found.stderr and found.stderr < 0.2 * exact
    assert found.value + 4 * found.stderr < 1  # two regular parameters


def test_more_draws_extend_the_chains():
    flat = surface(quadratic, torch.zeros(6))
    settings = {"burn_in": 5, "chains": 2, "step": 1e-3}
    short, long = (
        acutance.measure("local_learning_coefficient", flat, draws=draws, **settings).extras["trace"]["y"]
        for draws in (10, 20)
    )
    assert len(short) == 15 and long[:15] == short


def test_the_trace_is_the_mean_loss_of_the_chains():
    settings = {"step": 1e-3, "burn_in": 10, "draws": 490, "chains": 2}
    found = acutance.measure("local_learning_coefficient", surface(quadratic, torch.zeros(6)), **settings)
    trace = found.extras["trace"]
    assert trace["x"][:3] == [1, 4, 7] and len(trace["x"]) == len(trace["y"]) == 167
    halves = found.extras["first_half"], found.extras["second_half"]
    assert np.mean(halves) == pytest.approx(found.value)
    assert np.mean(trace["y"][4:]) * found.extras["n_beta"] == pytest.approx(found.value, rel=0.1)


def test_what_is_wrong_is_said_with_what_to_do():
    name, zero = "local_learning_coefficient", torch.zeros(6)
    # Not at a minimum: the chains go down.
    found = acutance.measure(name, surface(quadratic, zero + 3), localization=0.1, step=1e-3, burn_in=50, draws=50)
    assert found.value < 0 and found.status is Status.NOT_CONVERGED and "train them further" in found.message
    # A step beyond the stability of the largest curvature, and one just below.
    found = acutance.measure(name, surface(quadratic, zero), step=0.05, burn_in=600)
    assert found.status is Status.NONFINITE and "lower step" in found.message
    found = acutance.measure(name, surface(quadratic, zero), step=0.0225, localization=0.1)
    assert found.value > 3 and found.status is Status.NOT_CONVERGED and "above p/2 = 3" in found.message
    # Still rising.
    rising = {"step": 1e-4, "burn_in": 0, "chains": 24, "draws": 60, "localization": 1.0}
    found = acutance.measure(name, surface(quadratic, zero), **rising)
    assert found.status is Status.NOT_CONVERGED and "raise burn_in" in found.message
    one = acutance.measure(name, surface(quadratic, zero, n=1))
    assert one.status is Status.UNSUPPORTED and "two points" in one.message
    with pytest.raises(UserError, match=r"local_learning_coefficient\.step"):
        acutance.measure(name, surface(quadratic, zero), step=0.0)


def test_one_chain_has_no_standard_error_and_costs_its_steps():
    model, data = MLP(), mlp_data()
    found = acutance.measure("local_learning_coefficient", model, data, chains=1, burn_in=2, draws=5)
    assert found.stderr is None
    assert (found.cost.forwards, found.cost.backwards) == (24 * (8 + 5), 24 * (7 + 5))
    part = acutance.measure("local_learning_coefficient", model, data, parameters="*weight", burn_in=1, draws=5)
    assert part.cost.backwards == 24 * (1 + 5 + 4 * 5)


def regression():
    """Three weights at the least-squares solution of 400 points, and the value of their stationary distribution."""
    torch.manual_seed(0)
    x = torch.randn(400, 3, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64) + 0.1 * torch.randn(400, 1, dtype=torch.float64)
    model = torch.nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    k = 400 / math.log(400) * torch.linalg.eigvalsh(2 * x.T @ x / 400)
    return model, (x, y), float((k / (k + 100)).sum() / 2)


def test_the_default_step_reaches_the_plateau_of_a_regression():
    model, data, exact = regression()
    found = acutance.measure("local_learning_coefficient", model, data, loss="mse")
    assert 0.8 < exact < 0.9 and found.status is Status.OK
    # The step makes variances up to 1 / (1 - 0.2 / 4) times too large.
    assert abs(found.value - exact) < 4 * found.stderr + 0.06 * exact and found.stderr < 0.25 * exact
    assert found.extras["step"] == pytest.approx(0.2 / (400 / math.log(400) * 2 + 100), rel=0.25)


@pytest.mark.parametrize("step", [1e-5, 1e-7])
def test_chains_that_have_not_come_to_rest_are_told(step):
    model, data, exact = regression()
    found = acutance.measure("local_learning_coefficient", model, data, loss="mse", step=step)
    assert found.value < 0.5 * exact and found.status is Status.NOT_CONVERGED
    assert "raise burn_in" in found.message and "localization" in found.message


def test_a_trend_over_the_draws_is_told_without_localization():
    rising = {"step": 1e-4, "burn_in": 0, "chains": 24, "draws": 60, "localization": 0.0}
    found = acutance.measure("local_learning_coefficient", surface(quadratic, torch.zeros(6)), **rising)
    assert found.status is Status.NOT_CONVERGED and "trend" in found.message


def test_the_trend_is_the_slope_of_each_chain():
    line = torch.stack([0.5 * torch.arange(8.0), -2 * torch.arange(8.0)]).double()
    assert trends(line) == pytest.approx([4.0, -16.0]) and trends(line[:, :1]) == [0.0, 0.0]


def test_without_anything_that_draws_back_there_is_no_step():
    flat = surface(lambda logits, targets: 0 * logits.sum(), torch.ones(6))
    found = acutance.measure("local_learning_coefficient", flat, localization=0.0)
    assert found.status is Status.UNSUPPORTED and "give one" in found.message
