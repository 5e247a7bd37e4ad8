"""Gradient norms, curvature along the gradient, Frobenius norm, effective dimension, Gauss-Newton split: dense answers."""

import math

import pytest
import torch
from models import MLP, dense_hessian, mlp_data
from networks import NETWORKS

import acutance
from acutance import LossSurface, Status
from acutance.plugins import catalog
from acutance.testing.problems import PROBLEMS

CASES = ("mlp", "gelu_norm", "tied")


def surface_of(name, **more):
    model, data = NETWORKS[name]
    return LossSurface(model(), data(), **more)


def c_of(surface, scaling):
    return torch.ones_like(surface.w) if scaling == "none" else surface.w.abs()


@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("norm,dual", [("l1", torch.inf), ("l2", 2), ("linf", 1)])
def test_gradient_norm_is_dual(norm, dual, scaling):
    surface = surface_of("mlp")
    for logit_norm in (False, True):
        g = surface.transformed(logit_norm).gradient()[1] * c_of(surface, scaling)
        found = acutance.measure("gradient_norm", surface, norm=norm, scaling=scaling, rho=0.3, logit_norm=logit_norm)
        assert found.value == pytest.approx(0.3 * float(torch.linalg.vector_norm(g, dual)), rel=1e-12)
        assert found.stderr is None


def test_gradient_norm_is_the_limit_of_worst_case():
    surface = surface_of("mlp")
    for norm in ("l2", "linf"):
        slope = acutance.measure("gradient_norm", surface, norm=norm, rho=1e-6)
        assert acutance.measure("worst_case", surface, norm=norm, rho=1e-6).value == pytest.approx(
            slope.value, rel=1e-4
        )


@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("name", CASES)
def test_curvature_along_the_gradient(name, scaling):
    surface = surface_of(name)
    c, h = c_of(surface, scaling), dense_hessian(surface)
    g = surface.gradient()[1] * c
    exact = float(g @ (h * torch.outer(c, c)) @ g / (g @ g))
    found = acutance.measure("directional_sharpness", surface, scaling=scaling)
    assert found.value == pytest.approx(exact, rel=1e-10)
    assert found.extras["gradient_norm"] == pytest.approx(float(g.norm()))
    top = acutance.measure("hessian_top_eigenvalue", surface, scaling=scaling)
    assert found.value <= top.value * (1 + 1e-6)


@pytest.mark.parametrize("name", ["gradient_norm", "directional_sharpness"])
def test_a_critical_point_has_no_direction(name):
    found = acutance.measure(name, PROBLEMS["quadratic"].surface())
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value) and "second-order" in found.message


@pytest.mark.parametrize("name", CASES)
def test_frobenius_norm(name):
    surface = surface_of(name)
    c = c_of(surface, "elementwise")
    exact = float((dense_hessian(surface) * torch.outer(c, c)).square().sum())
    values = [acutance.measure("hessian_frobenius", surface, probes=20, seed=s) for s in range(40)]
    spread = torch.tensor([v.value for v in values]).std()
    assert abs(sum(v.value for v in values) / 40 - exact) < 4 * float(spread) / math.sqrt(40)
    assert values[0].extras["norm"] == pytest.approx(math.sqrt(values[0].value))


def test_frobenius_norm_and_trace_share_their_products():
    surface = surface_of("mlp")
    acutance.measure("hessian_trace", surface, probes=12)
    before = surface.cost
    acutance.measure("hessian_frobenius", surface, probes=12)
    assert (surface.cost - before).units == 0


@pytest.mark.parametrize(
    ("name", "z"),
    [pytest.param(n, z, marks=[pytest.mark.slow] if z < 1 or n != "mlp" else []) for n in CASES for z in (0.01, 1.0)],
)
def test_effective_dimension(name, z):
    surface = surface_of(name)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(surface)).clamp_min(0)
    exact = float((eigenvalues / (eigenvalues + z)).sum())
    fields = {"z": z, "probes": 25, "iterations": surface.w.numel(), "scaling": "none"}
    found = acutance.measure("hessian_effective_dimension", surface, **fields)
    assert abs(found.value - exact) < 4 * found.stderr
    assert 0 <= found.extras["negative_mass"] < 1


def test_effective_dimension_density_and_eigenvalue_share_their_runs():
    surface = surface_of("mlp")
    acutance.measure("hessian_density", surface, probes=2, iterations=20)
    before = surface.cost
    for z in (0.1, 1.0):
        acutance.measure("hessian_effective_dimension", surface, probes=2, iterations=20, z=z)
    assert (surface.cost - before).units == 0


def dense_ggn(surface):
    return torch.stack([surface.ggnvp(e) for e in torch.eye(surface.w.numel(), dtype=surface.w.dtype)])


@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_split(name):
    surface = surface_of(name)
    c = c_of(surface, "elementwise")
    g, h = dense_ggn(surface) * torch.outer(c, c), dense_hessian(surface) * torch.outer(c, c)
    part = acutance.measure("gauss_newton_trace", surface, probes=60)
    rest = acutance.measure("gauss_newton_trace", surface, probes=60, part="remainder")
    assert abs(part.value - float(g.trace())) < 4 * part.stderr and part.value > 0
    assert abs(rest.value - float((h - g).trace())) < 4 * rest.stderr
    whole = acutance.measure("hessian_trace", surface, probes=60)
    assert part.value + rest.value == pytest.approx(whole.value, rel=1e-9)
    assert rest.extras["hessian"] == pytest.approx(whole.value, rel=1e-12)


@pytest.mark.parametrize(
    "name,fields",
    [
        ("gradient_norm", {}),
        ("directional_sharpness", {}),
        ("hessian_frobenius", {"probes": 5}),
        ("hessian_effective_dimension", {"probes": 2, "iterations": 6}),
        ("gauss_newton_trace", {"probes": 5}),
        ("gauss_newton_trace", {"probes": 5, "part": "remainder"}),
    ],
)
def test_passes_are_what_was_said(name, fields):
    surface, measure = surface_of("mlp"), catalog().measure(name)
    acutance.measure(name, surface, **fields)
    spent, said = surface.cost * (1 / surface.n), measure.passes(measure.Spec(**fields))
    assert (spent.forwards, spent.backwards, spent.hvps) == (said.forwards, said.backwards, said.hvps)


def test_nothing_that_is_nan_is_a_number():
    class Huge(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.full((4,), 31.0))

        def forward(self, x):
            return torch.exp(self.w * x).sum(1, keepdim=True) * torch.tensor([[1.0, 2.0]])

    data = torch.full((3, 4), 2.8), torch.zeros(3, dtype=torch.long)
    for name in ("directional_sharpness", "hessian_frobenius", "hessian_effective_dimension", "gauss_newton_trace"):
        found = acutance.measure(name, LossSurface(Huge(), data), scaling="none")
        assert found.status is not Status.OK and math.isnan(found.value), name


def test_float32():
    model = MLP().float()
    x, y = mlp_data()
    for name in ("gradient_norm", "directional_sharpness", "hessian_frobenius", "gauss_newton_trace"):
        single = acutance.measure(name, LossSurface(model, (x.float(), y)))
        double = acutance.measure(name, LossSurface(model, (x.float(), y), dtype="float64"))
        assert single.value == pytest.approx(double.value, rel=1e-4), name
