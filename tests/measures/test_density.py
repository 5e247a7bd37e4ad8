"""What Lanczos quadrature can tell of the sign of the bulk: bounds, and the share of negative eigenvalues of trained networks."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import nn
from trained import digits

import acutance
from acutance import LossSurface, Status
from acutance.numerics.lanczos import Lanczos


def conv(norm):
    between = [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1), *between, nn.ReLU(), nn.Conv2d(6, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8)
    )  # fmt: skip


NETWORKS = {
    "relu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)),
    "tanh": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)),
    "conv": lambda: conv(False),
    "norm": lambda: conv(True),
}


@cache
def surface_and_share(name, steps):
    """Return a trained network's surface and the exact share of negative eigenvalues of its Hessian."""
    x, y = digits()
    x, y = x.double(), y % 8 if name in ("conv", "norm") else y
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(steps)
        net = NETWORKS[name]().double()
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(steps):
            rows = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    surface = LossSurface(net.eval(), (x[:64], y[:64]))
    exact = torch.linalg.eigvalsh(
        torch.cat([surface.hvps(block) for block in torch.eye(len(surface.w), dtype=torch.float64).split(128)])
    )
    return surface, float((exact < -1e-5 * exact.abs().max()).double().mean())


CASES = [(name, steps) for name in NETWORKS for steps in (40, 200)]


@pytest.mark.slow
def test_the_share_of_negative_eigenvalues_of_trained_networks_is_ranked_as_it_is():
    """With 80 iterations the values of such networks ranked by chance; what is not resolved says so."""
    values, exact, resolved = [], [], 0
    for case in CASES:
        surface, share = surface_and_share(*case)
        found = acutance.measure("hessian_density", surface, scaling="none")
        low, high = found.extras["low"], found.extras["high"]
        assert low - 1e-9 <= found.value <= high + 1e-9
        assert found.status is (Status.OK if high - low <= 0.1 else Status.NOT_CONVERGED), case
        assert abs(found.value - share) < 4 * found.stderr + 0.02
        resolved += found.status is Status.OK
        values.append(found.value)
        exact.append(share)
    assert kendalltau(values, exact).statistic >= 0.8 and resolved >= 6


def test_a_share_that_is_not_resolved_says_so():
    surface, share = surface_and_share("tanh", 200)
    found = acutance.measure("hessian_density", surface, scaling="none", iterations=40)
    assert found.status is Status.NOT_CONVERGED and "raise iterations" in found.message
    extras = found.extras
    assert extras["low"] < share < extras["high"] and extras["high"] - extras["low"] > 0.1
    assert extras["low"] - 1e-9 <= found.value <= extras["high"] + 1e-9
    half = acutance.measure("hessian_density", surface, scaling="none", iterations=20)
    assert extras["value_half"] == pytest.approx(half.value) and f"{half.value:.3g}" in found.message
    finer = acutance.measure("hessian_density", surface, scaling="none", iterations=80, probes=1)
    assert 0 < finer.extras["resolution"] < extras["resolution"] < 1
    lenient = acutance.measure("hessian_density", surface, scaling="none", iterations=40, tol=1.0)
    assert lenient.status is Status.OK and lenient.value == found.value


def test_the_effective_dimension_says_whether_more_iterations_would_change_it():
    surface, share = surface_and_share("relu", 200)
    coarse = acutance.measure("hessian_effective_dimension", surface, scaling="none", z=1e-3, iterations=4)
    assert coarse.status is Status.NOT_CONVERGED and "half of the iterations" in coarse.message
    half = acutance.measure("hessian_effective_dimension", surface, scaling="none", z=1e-3, iterations=2, rtol=1e9)
    assert half.status is Status.OK and half.value == pytest.approx(coarse.extras["value_half"])
    assert (
        coarse.extras["negative_low"] - 1e-9 <= coarse.extras["negative_mass"] <= coarse.extras["negative_high"] + 1e-9
    )
    assert coarse.extras["negative_low"] - 0.1 < share < coarse.extras["negative_high"] + 0.1


@pytest.mark.parametrize("k", [1, 2, 5, 12, 30])
def test_bounds_hold_the_mass_below_any_cut_and_are_reached(k):
    """Chebyshev, Markov, Stieltjes: the spectrum seen from the start has no more and no less below x."""
    g = torch.Generator().manual_seed(k)
    eigenvalues = torch.cat([torch.randn(20, generator=g, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)])
    v = torch.randn(30, generator=g, dtype=torch.float64)
    weights = (v / v.norm()).square()
    run = Lanczos(v.clone())
    made = run.extend(lambda x: eigenvalues * x, k)
    for x in (-1.3, -0.2, -1e-3, 1e-3, 0.4, 5.0):
        low, high = run.mass_below(x, made)
        there = float(weights[eigenvalues < x].sum())
        assert low - 1e-9 <= there <= high + 1e-9
        if run.exhausted:
            assert low == high == pytest.approx(there)
        else:  # the width is Christoffel's number, 1 over the sum of the squares of the orthonormal polynomials at x
            assert high - low == pytest.approx(christoffel(run, x, made), rel=1e-4, abs=1e-12)


def christoffel(run, x, k):
    before, now, total = 0.0, 1.0, 1.0
    for j in range(k - 1):
        beta = run._betas[j - 1] if j else 0.0
        before, now = now, ((x - run._alphas[j]) * now - beta * before) / run._betas[j]
        total += now * now
    return 1 / total if math.isfinite(total) else 0.0
