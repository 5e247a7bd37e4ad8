"""Auto-PGD against problems whose maximum is known exactly."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch

from acutance.numerics.auto_pgd import auto_pgd, checkpoints
from acutance.numerics.balls import ball
from acutance.numerics.draws import Streams
from acutance.numerics.slopes import Slope


class Quadratic:
    """F(x) = 1/2 x^T A x + b^T x, counting its evaluations."""

    def __init__(self, a, b):
        self.a, self.b = a, b
        self.gradients = self.values = 0

    def f(self, x):
        return 0.5 * x @ (self.a @ x) + self.b @ x

    def gradient(self, x):
        self.gradients += 1
        return float(self.f(x)), torch.zeros(()), Slope([self.a @ x + self.b])

    def value(self, x):
        self.values += 1
        return float(self.f(x)), torch.zeros(())


def random_quadratic(seed, p, convex=True):
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(p, p, generator=g, dtype=torch.float64))
    eigenvalues = torch.rand(p, generator=g, dtype=torch.float64) ** 3 * 10
    if not convex:
        eigenvalues = eigenvalues - 3
    b = torch.randn(p, generator=g, dtype=torch.float64) * torch.rand((), generator=g, dtype=torch.float64)
    return (q * eigenvalues) @ q.T, b


def trust_region_maximum(a, b, rho):
    """max 1/2 x'Ax + b'x over ||x|| <= rho, from the eigendecomposition and the secular equation."""
    lam, v = np.linalg.eigh(a.numpy())
    beta = v.T @ b.numpy()
    top = lam[-1]

    def norm(mu):
        return np.linalg.norm(beta / (mu - lam))

    low = max(top, 0.0) + 1e-12
    if top < 0 and norm(1e-300) <= rho:
        x = beta / (0 - lam)
    else:
        high = top + np.linalg.norm(beta) / rho + 1.0
        mu = scipy.optimize.brentq(lambda m: norm(m) - rho, low, high, xtol=1e-14)
        x = beta / (mu - lam)
    return 0.5 * x @ (lam * x) + beta @ x


def maximise(problem, norm, rho, restarts, seed, steps=20):
    region, rng = ball(norm, rho), Streams("test", seed)
    like = torch.zeros(len(problem.b), dtype=torch.float64)
    best = -np.inf
    for r in range(restarts):
        noise = rng.normal("s", r, like) if norm == "l2" else rng.uniform("s", r, like)
        best = max(best, float(auto_pgd(problem, region.random(noise, rng.number("u", r)), region, steps).value))
    return best


def test_l2_reaches_the_trust_region_optimum_of_convex_quadratics():
    ratios = []
    for seed in range(200):
        a, b = random_quadratic(seed, 10)
        rho = 0.3 + seed % 5
        exact = trust_region_maximum(a, b, rho)
        found = maximise(Quadratic(a, b), "l2", rho, 5, seed)
        assert found <= exact * (1 + 1e-9)
        ratios.append(found / exact)
    assert np.quantile(ratios, 0.05) >= 0.97


def test_linf_comes_close_to_the_best_vertex_and_never_above_it():
    vertices = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=torch.float64)
    ratios = []
    for seed in range(200):
        a, b = random_quadratic(seed, 8)
        rho = 0.3 + seed % 5
        points = vertices * rho
        exact = float((0.5 * ((points @ a) * points).sum(1) + points @ b).max())
        found = maximise(Quadratic(a, b), "linf", rho, 5, seed)
        assert found <= exact * (1 + 1e-12)
        ratios.append(found / exact)
    assert np.median(ratios) >= 0.93


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("rho", [1e-6, 1.0, 1e4])
def test_linear_functions_are_maximised_exactly(norm, rho):
    b = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    dual = b.norm() if norm == "l2" else b.abs().sum()
    found = maximise(Quadratic(torch.zeros(50, 50, dtype=torch.float64), b), norm, rho, 1, 0)
    assert found == pytest.approx(float(rho * dual), rel=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("convex", [True, False])
def test_every_iterate_stays_in_the_ball(norm, convex):
    a, b = random_quadratic(7, 30, convex)
    region = ball(norm, 0.7)

    class Watched(Quadratic):
        def f(self, x):
            assert float(region.norm(x)) <= 0.7 * (1 + 1e-9)
            return super().f(x)

    auto_pgd(Watched(a, b), torch.zeros(30, dtype=torch.float64), region, 50)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100])
def test_passes_are_exactly_steps_gradients_and_one_value(steps):
    problem = Quadratic(*random_quadratic(0, 5))
    auto_pgd(problem, torch.zeros(5, dtype=torch.float64), ball("l2", 1.0), steps)
    assert (problem.gradients, problem.values) == (steps, 1)


def test_checkpoints_are_exact():
    assert checkpoints(20) == [5, 9, 12, 14, 16, 18, 19, 20]
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    for steps in range(1, 200):
        found = checkpoints(steps)
        assert found == sorted(set(found)) and 1 <= found[0] and found[-1] <= steps


def reference_algorithm_1(f, grad, x0, project, direction, eta, steps):
    """Algorithm 1 of the paper written out plainly, with a list of everything it visits."""
    alpha, threshold = 0.75, 0.75
    xs = [x0, project(x0 + eta * direction(grad(x0)))]
    fs = [f(x0), f(xs[1])]
    best, f_best = (x0, fs[0]) if fs[0] >= fs[1] else (xs[1], fs[1])
    w = checkpoints(steps)
    before, f_best_before, halved = 0, fs[0], False
    replaced = set()
    for k in range(1, steps):
        z = project(xs[k] + eta * direction(grad(xs[k])))
        inertia = 0 if k in replaced else xs[k] - xs[k - 1]
        x = project(xs[k] + alpha * (z - xs[k]) + (1 - alpha) * inertia)
        fx = f(x)
        if fx > f_best:
            best, f_best = x, fx
        xs.append(x)
        fs.append(fx)
        if k in w:
            rises = sum(fs[i + 1] > fs[i] and (i + 1) not in replaced for i in range(before, k))
            if rises < threshold * (k - before) or (not halved and f_best == f_best_before):
                eta, halved = eta / 2, True
                xs[k + 1], fs[k + 1] = best, f_best
                replaced.add(k + 1)
            else:
                halved = False
            before, f_best_before = k, f_best
    return f_best


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", range(6))
def test_every_step_is_that_of_algorithm_1(norm, seed):
    a, b = random_quadratic(seed, 12, convex=False)

    def f(x):
        return float(0.5 * x @ (a @ x) + b @ x + torch.sin(5 * x).sum())

    def grad(x):
        return a @ x + b + 5 * torch.cos(5 * x)

    class Wavy(Quadratic):
        def gradient(self, x):
            return f(x), torch.zeros(()), Slope(grad(x).split(5))

        def value(self, x):
            return f(x), torch.zeros(())

    rho = 1.5
    if norm == "l2":
        project, direction = (lambda x: x * min(1.0, rho / float(x.norm() + 1e-300))), (lambda g: g / g.norm())
    else:
        project, direction = (lambda x: x.clamp(-rho, rho)), torch.sign
    start = torch.full((12,), 0.1, dtype=torch.float64)
    expected = reference_algorithm_1(f, grad, start, project, direction, 2 * rho, 40)
    found = auto_pgd(Wavy(a, b), start.clone(), ball(norm, rho), 40)
    assert float(found.value) == pytest.approx(expected, rel=1e-9)
    assert f(found.x) == float(found.value)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_points_are_uniform_in_the_ball(norm):
    rng, like, region = Streams("uniform"), torch.zeros(3, dtype=torch.float64), ball(norm, 2.0)
    draw = rng.normal if norm == "l2" else rng.uniform
    points = torch.stack([region.random(draw("x", k, like), rng.number("u", k)) for k in range(4000)])
    radii = torch.tensor([region.norm(p) for p in points]) / 2.0
    assert radii.max() <= 1 + 1e-6
    # Volume below radius r grows as r^3 for both norms.
    assert float((radii < 0.5 ** (1 / 3)).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert points.mean(0).abs().max() < 0.1
