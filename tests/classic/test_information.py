"""Information criteria against matrices that are made and inverted by hand."""

import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import MLP, mlp_data


def matrices(surface):
    """Hessian, Gauss-Newton matrix and C, each (p, p), column by column and example by example."""
    identity = torch.eye(surface.w.numel(), dtype=torch.float64)
    hessian = torch.stack([surface.hvp(e) for e in identity])
    ggn = torch.stack([surface.ggnvp(e) for e in identity])
    g = torch.cat(list(surface.example_gradients()))
    return hessian, ggn, g.T @ g / len(g)


@pytest.fixture(scope="module")
def case():
    surface = LossSurface(MLP(torch.tanh), mlp_data())
    return surface, *matrices(surface)


@pytest.fixture(scope="module")
def softmax():
    """A linear softmax model: convex, so that Hessian and Gauss-Newton matrix are the same."""
    surface = LossSurface(MLP(dims=(6, 4)), mlp_data(), num_train=1000)
    return surface, *matrices(surface)


@pytest.mark.parametrize("damping", [1e-3, 0.5])
def test_tic_is_the_trace_of_the_inverse(case, damping):
    surface, _, ggn, c = case
    damped = ggn + damping * torch.eye(len(ggn), dtype=torch.float64)
    exact = float(torch.linalg.solve(damped, c).trace()) / surface.n
    found = acutance.measure("tic", surface, damping=damping, approximation="dense")
    assert found.value == pytest.approx(exact, rel=1e-8) and found.extras["trace"] == pytest.approx(
        24 * exact, rel=1e-8
    )
    assert found.stderr is None
    if damping < 0.1:
        return  # takes as many products as there are eigenvalues
    found = acutance.measure("tic", surface, damping=damping, probes=20)
    assert found.status is Status.OK and abs(found.value - exact) < 4 * found.stderr < 0.6 * exact


@pytest.mark.parametrize("damping", [1e-3, 0.5])
def test_the_soft_rank_is_that_of_the_eigenvalues(case, damping):
    surface, _, ggn, _ = case
    values = torch.linalg.eigvalsh(ggn).clamp_min(0)
    exact = float((values / (values + damping)).sum()) / surface.n
    found = acutance.measure("soft_rank_tic", surface, damping=damping, approximation="dense")
    assert found.value == pytest.approx(exact, rel=1e-6)
    if damping < 0.1:
        return
    found = acutance.measure("soft_rank_tic", surface, damping=damping, probes=20)
    assert found.status is Status.OK and abs(found.value - exact) < 4 * found.stderr < 0.4 * exact


def test_a_convex_model_by_its_hessian(softmax):
    """With the size of the training set, not of the batch; H is singular, so that it needs damping."""
    surface, hessian, ggn, c = softmax
    torch.testing.assert_close(hessian, ggn)
    exact = float(torch.linalg.solve(hessian + 0.01 * torch.eye(28, dtype=torch.float64), c).trace()) / 1000
    for curvature in ("hessian", "ggn"):
        found = acutance.measure("tic", surface, damping=0.01, curvature=curvature, approximation="dense")
        assert found.value == pytest.approx(exact, rel=1e-8)
        found = acutance.measure("tic", surface, damping=0.01, curvature=curvature, iterations=28, probes=20)
        assert abs(found.value - exact) < 4 * found.stderr
    found = acutance.measure("tic", surface, damping=0.0, approximation="dense")
    assert found.status is Status.UNSUPPORTED and "raise damping" in found.message


def test_a_well_specified_regression_gives_the_number_of_parameters():
    """Least squares with noise of variance s^2: H = 2 X'X/n, C = 4 s^2 X'X/n, TIC = 2 s^2 p / N, soft rank p / N."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=g, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + 0.5 * torch.randn(4000, 1, generator=g, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    model.weight.data.copy_(torch.linalg.lstsq(x, y).solution.T)
    surface = LossSurface(model, (x, y), "mse")
    for settings in ({"approximation": "dense"}, {"iterations": 3}, {"approximation": "dense", "curvature": "hessian"}):
        found = acutance.measure("tic", surface, damping=0.0, **settings)
        assert found.value == pytest.approx(2 * 0.25 * 3 / 4000, rel=0.1 if "iterations" not in settings else 1)
        assert acutance.measure("soft_rank_tic", surface, damping=0.0, **settings).value == pytest.approx(3 / 4000)


def test_the_diagonal(case):
    surface, _, ggn, c = case
    p = surface.logits().softmax(1)
    moments = [torch.cat(list(surface.example_gradients(targets=torch.full((24,), k)))).square() for k in range(4)]
    diagonal = sum(p[:, k : k + 1] * moments[k] for k in range(4)).mean(0)
    torch.testing.assert_close(diagonal, ggn.diagonal())
    exact = float((c.diagonal() / (diagonal + 0.1)).sum()) / 24
    found = acutance.measure("tic", surface, damping=0.1, approximation="diagonal", draws=400)
    assert found.value == pytest.approx(exact, rel=0.03)
    rank = float((diagonal / (diagonal + 0.1)).sum()) / 24
    found = acutance.measure("soft_rank_tic", surface, damping=0.1, approximation="diagonal", draws=400)
    assert found.value == pytest.approx(rank, rel=0.03)


def test_calibrated_models_have_equal_criteria(softmax):
    """Labels of the model's own, many of each input: C is the Fisher matrix, and TIC the soft rank."""
    surface = softmax[0]
    x, model = surface.inputs.repeat(400, 1), surface.model
    p = model(x).softmax(1).detach()
    y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    settings = {"damping": 0.02, "approximation": "dense"}
    tic, rank = (acutance.measure(name, model, (x, y), **settings).value for name in ("tic", "soft_rank_tic"))
    assert tic == pytest.approx(rank, rel=0.1)


def test_what_cannot_be_is_said(case):
    surface, hessian, *_ = case
    assert float(torch.linalg.eigvalsh(hessian).min()) < -1e-3
    for approximation in ("dense", "lanczos"):
        found = acutance.measure("tic", surface, curvature="hessian", approximation=approximation, iterations=60)
        assert found.status is Status.UNSUPPORTED and "not positive definite" in found.message
    with pytest.raises(UserError, match="diagonal is that of the Gauss-Newton matrix"):
        acutance.measure("tic", surface, curvature="hessian", approximation="diagonal")
    wide = LossSurface(nn.Linear(6, 400).double(), mlp_data())
    found = acutance.measure("tic", wide, approximation="dense")
    assert found.status is Status.UNSUPPORTED and "at most 2000" in found.message
    numbers = LossSurface(MLP(), (mlp_data()[0], torch.zeros(24, 4)), "mse")
    assert "labels are drawn" in acutance.measure("tic", numbers, approximation="diagonal").message
    short = acutance.measure("tic", surface, damping=1e-5, iterations=6)
    assert short.status is Status.NOT_CONVERGED and "raise iterations or damping" in short.message


def test_the_cost_is_that_of_the_products(case):
    for name, gradients in (("tic", 1), ("soft_rank_tic", 0)):
        surface = LossSurface(MLP(torch.tanh), mlp_data())
        cost = acutance.measure(name, surface, probes=2, iterations=5).cost
        assert (cost.forwards, cost.backwards) == (24 * (1 + gradients), 24 * (1 + gradients + 20))


def test_a_model_that_mixes_examples_says_so():
    class Mixing(MLP):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    found = acutance.measure("tic", Mixing(), mlp_data())
    assert found.status is Status.UNSUPPORTED and "depends on the other examples" in found.message
