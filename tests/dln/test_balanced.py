"""The paper's c for diagonal linear networks: its identities, its invariance, and the generic measures with it."""

import math

import pytest
import torch
from diagonals import LOSSES, c_of, network, points, weights
from models import MLP, mlp_data

import acutance
from acutance import LossSurface, Status, Unsupported, scaling
from acutance_dln import closed_forms
from acutance_dln.network import DiagonalLinearNetwork

SCALINGS = ("none", "elementwise", "balanced")


def swapped(surface):
    """The two halves of c as the paper's text prints them."""
    return torch.cat(closed_forms.balanced(*surface.w.chunk(2)).chunk(2)[::-1])


def surface_of(loss="half_squared_sum", kind="gaussian", n=9, d=6, noise=0.0, zeros=0, **more):
    net = network(d, zeros=zeros)
    return LossSurface(net, points(net, kind, n, noise), loss=loss, **more)


def parts(surface):
    """What the closed forms take: x, r, u, v and the factor."""
    u, v = weights(surface.model)
    x, y = surface.inputs.double(), surface.targets.double()
    return x, closed_forms.residual(x, y, u, v), u, v, closed_forms.factor(surface.criterion, surface.n)


def test_c_is_its_definition():
    surface = surface_of()
    u, v = weights(surface.model)
    c = scaling.vector(surface, "balanced")
    assert torch.allclose(c, torch.cat([(u / v).abs().sqrt(), (v / u).abs().sqrt()]), rtol=1e-14)
    for name, half in zip(("u", "v"), c.chunk(2), strict=True):
        assert torch.equal(scaling.vector(surface.restricted(name), "balanced"), half)
    # A surface that has only one of them free from the start sees the other too.
    alone = LossSurface(surface.model, (surface.inputs, surface.targets), loss="mse", parameters="v")
    assert torch.equal(scaling.vector(alone, "balanced"), c[6:])


def test_both_weights_of_a_pair_have_the_same_curvature():
    u, v = weights(network(seed=5))
    c_u, c_v = closed_forms.balanced(u, v).chunk(2)
    beta = (u * v).abs()
    assert torch.allclose((c_u * v).square(), beta, rtol=1e-14) and torch.allclose((c_v * u).square(), beta, rtol=1e-14)
    assert torch.allclose(c_u * c_v, torch.ones(6).double(), rtol=1e-14)


@pytest.mark.parametrize("kind", ["unit_columns", "orthonormal"])
def test_the_trace_is_the_l1_norm_and_the_largest_eigenvalue_the_largest_entry(kind):
    surface = surface_of(kind=kind)
    beta = surface.model.beta.detach()
    trace = acutance.measure("dln_trace", surface, scaling="balanced")
    top = acutance.measure("dln_top_eigenvalue", surface, scaling="balanced")
    assert trace.value / 2 == pytest.approx(float(beta.abs().sum()), rel=1e-12)
    worst = float(beta.abs().max())
    assert (top.value / 2 == pytest.approx(worst, rel=1e-12)) is (kind == "orthonormal")
    assert top.value / 2 >= worst - 1e-12


def test_with_the_halves_as_printed_the_identities_fail():
    surface = surface_of(kind="orthonormal")
    u, v = weights(surface.model)
    cubes = v.abs() ** 3 / u.abs() + u.abs() ** 3 / v.abs()
    h = closed_forms.hessian(*parts(surface)[:4], swapped(surface))
    assert float(h.trace()) == pytest.approx(float(cubes.sum()), rel=1e-12)
    assert float(torch.linalg.eigvalsh(h)[-1]) == pytest.approx(float(cubes.max()), rel=1e-12)
    beta = (u * v).abs()
    assert float(h.trace()) / 2 > 2 * float(beta.sum()) and float(cubes.max()) / 2 > 2 * float(beta.max())


@pytest.mark.parametrize("measure", ["dln_trace", "dln_top_eigenvalue"])
@pytest.mark.parametrize("loss", LOSSES)
def test_invariance_under_rescaling_of_the_pairs(measure, loss):
    surface = surface_of(loss, noise=0.5)
    u, v = weights(surface.model)
    data = surface.inputs, surface.targets

    def value(a, name):
        net = DiagonalLinearNetwork(u * a, v / a)
        return acutance.measure(measure, LossSurface(net, data, loss=loss), scaling=name).value

    each = torch.tensor([0.2, 3.0, 7.0, 1.1, 0.9, 12.0]).double()
    for name in ("balanced", "elementwise"):
        plain = value(1.0, name)
        assert value(4.0, name) == plain  # roots and quotients of a power of four are exact
        assert value(each, name) == pytest.approx(plain, rel=1e-12)
    assert value(4.0, "none") > 2 * value(1.0, "none")


def test_as_printed_it_is_not_invariant():
    u, v = weights(network())
    value = []
    for a in (1.0, 4.0):
        c = torch.cat(closed_forms.balanced(u * a, v / a).chunk(2)[::-1])
        value.append(float(closed_forms.half_trace(u * a, v / a, c)))
    assert value[1] > 5 * value[0]


def test_the_spectrum_depends_on_beta_alone():
    r"""In (gamma_u +- gamma_v) / sqrt 2 the matrix is 2 S G S + diag(g s) and -diag(g s), S^2 = |beta|, s its sign."""
    surface = surface_of(noise=0.8)
    x, r, u, v, _ = parts(surface)
    beta, g = u * v, x.T @ r
    s = torch.diag(beta.abs().sqrt())
    mixed = 2 * s @ x.T @ x @ s + torch.diag(g * beta.sign())
    spectrum = torch.cat([torch.linalg.eigvalsh(mixed), -g * beta.sign()]).sort().values
    found = torch.linalg.eigvalsh(closed_forms.hessian(x, r, u, v, closed_forms.balanced(u, v)))
    assert torch.allclose(found, spectrum, rtol=1e-10, atol=1e-10)


def test_a_pair_with_a_zero_does_not_move():
    surface = surface_of(zeros=3, kind="unit_columns")
    c_u, c_v = scaling.vector(surface, "balanced").chunk(2)
    assert torch.equal(c_u == 0, torch.arange(6) < 3) and torch.equal(c_v == 0, torch.arange(6) < 3)
    found = acutance.measure("dln_trace", surface, scaling="balanced")
    assert found.value / 2 == pytest.approx(float(surface.model.beta.detach().abs().sum()), rel=1e-12)
    nothing = DiagonalLinearNetwork(torch.zeros(3), torch.ones(3))
    assert not closed_forms.balanced(*weights(nothing)).any()


def test_that_is_the_limit_where_there_is_no_residual():
    x, r, u, v, _ = parts(surface_of(noise=0.6))
    g = x.T @ r
    for small in ("u", "v", "both"):
        a, b = u.clone(), v.clone()
        a[2] *= 1e-14 if small in ("u", "both") else 1
        b[2] *= 1e-14 if small in ("v", "both") else 1
        c = closed_forms.balanced(a, b)
        assert c.isfinite().all() and float(c[2] * c[8]) == pytest.approx(1, rel=1e-12)
        for residual in (torch.zeros_like(r), r):
            h = closed_forms.hessian(x, residual, a, b, c)
            rows = h[[2, 8]].clone()
            assert float(rows[0, 8]) == pytest.approx(float(g[2]) if residual is r else 0, abs=1e-6)
            rows[0, 8] = rows[1, 2] = 0
            assert rows.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_weights_have_finite_units(dtype):
    tiny = torch.finfo(dtype).tiny
    u, v = torch.tensor([tiny, 1.0, tiny / 64], dtype=dtype), torch.tensor([1.0, tiny, tiny], dtype=dtype)
    net = DiagonalLinearNetwork(u, v)
    surface = LossSurface(net, (torch.ones(2, 3, dtype=dtype), torch.zeros(2, dtype=dtype)), loss="mse")
    c = scaling.vector(surface, "balanced")
    assert c.dtype == dtype and c.isfinite().all() and (c > 0).all()


# -- the generic measures, held to the closed forms ---------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", SCALINGS)
def test_estimators_of_curvature(name, loss, noise):
    surface = surface_of(loss, noise=noise, d=8, n=6)
    trace = acutance.measure("dln_trace", surface, scaling=name).value
    for estimator, probes in (("hutchinson", 200), ("xtrace", 8)):
        found = acutance.measure("hessian_trace", surface, scaling=name, estimator=estimator, probes=probes)
        assert abs(found.value - trace) < 4 * found.stderr and found.stderr < trace
    top = acutance.measure("dln_top_eigenvalue", surface, scaling=name).value
    found = acutance.measure("hessian_top_eigenvalue", surface, scaling=name, tol=1e-10)
    assert found.value == pytest.approx(top, rel=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("rho", [1e-3, 0.3])
@pytest.mark.parametrize("name", SCALINGS)
def test_average_case_sharpness_at_any_radius(name, rho, norm):
    r"""E L(w + delta) - L(w) = s/2 tr(H_c) + s^2/2 kappa sum G_ii c_u^2 c_v^2, s the variance of a coordinate."""
    surface = surface_of("squared_sum", noise=0.4)
    x, _, u, v, kappa = parts(surface)
    c_u, c_v = c_of(name, u, v).chunk(2)
    s = rho**2 if norm == "l2" else rho**2 / 3
    fourth = kappa * (x.square().sum(0) * (c_u * c_v).square()).sum()
    trace = acutance.measure("dln_trace", surface, scaling=name).value
    exact = s / 2 * trace + s**2 / 2 * float(fourth)
    found = acutance.measure(
        "average_case", surface, rho=rho, norm=norm, scaling=name, draws=400, variance_reduction="antithetic"
    )
    assert abs(found.value - exact) < 4 * found.stderr and found.stderr < 0.1 * exact
    # The limits of the paper: rho^2/2 for Gaussian noise, rho^2/6 for uniform noise.
    if rho < 0.01:
        assert exact == pytest.approx(rho**2 / {"l2": 2, "linf": 6}[norm] * trace, rel=1e-5)


@pytest.mark.parametrize("name", SCALINGS)
def test_worst_case_sharpness_at_a_minimum(name):
    surface = surface_of(n=6, d=4)
    top = acutance.measure("dln_top_eigenvalue", surface, scaling=name)
    assert top.extras["gradient_norm"] == 0
    rho = 1e-4
    found = acutance.measure("worst_case", surface, rho=rho, norm="l2", scaling=name, steps=200, restarts=3)
    assert found.value == pytest.approx(rho**2 / 2 * top.value, rel=1e-3)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
@pytest.mark.parametrize("name", SCALINGS)
def test_worst_case_sharpness_off_it(name, norm, dual):
    surface = surface_of(noise=0.7, zeros=2)
    x, r, u, v, kappa = parts(surface)
    slope = closed_forms.gradient(x, r, u, v, kappa) * c_of(name, u, v)
    rho = 1e-7
    found = acutance.measure("worst_case", surface, rho=rho, norm=norm, scaling=name)
    assert found.value == pytest.approx(rho * float(slope.norm(dual)), rel=1e-5)
    first = acutance.measure("gradient_norm", surface, scaling=name)
    assert first.value == pytest.approx(acutance.measure("dln_trace", surface, scaling=name).extras["gradient_norm"])


def test_the_sharpness_of_the_paper():
    """Section 5.2: for a small radius average-case sharpness over rho^2 is ||beta||_1."""
    for seed in range(5):
        net = network(seed=seed)
        surface = LossSurface(net, points(net, "unit_columns", n=4), loss="half_squared_sum")
        found = acutance.measure("average_case", surface, rho=1e-3, scaling="balanced", draws=2000)
        norm = acutance.measure("dln_beta_norm", net).value
        assert abs(found.value / 1e-6 - norm) < 4 * found.stderr / 1e-6 and found.stderr < 0.05 * found.value


# -- where it is not defined --------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["hessian_trace", "average_case", "worst_case", "gradient_norm"])
def test_other_models_have_no_such_c(measure):
    radius = {"rho": 0.1} if measure in ("average_case", "worst_case") else {}
    found = acutance.measure(measure, MLP(), mlp_data(), scaling="balanced", **radius)
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    assert "scaling 'balanced' is that of diagonal linear networks" in found.message and "MLP" in found.message


def test_one_parameter_for_both_has_no_such_c():
    net = network()
    net.v = net.u
    with pytest.raises(Unsupported, match="one parameter"):
        scaling.vector(LossSurface(net, points(net), loss="mse"), "balanced")
