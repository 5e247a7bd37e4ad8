"""The closed forms of a diagonal linear network against automatic differentiation in float64."""

import itertools

import pytest
import torch
from diagonals import DESIGNS, LOSSES, c_of, design, network, points, weights
from models import dense_hessian, seeded

from acutance import LossSurface
from acutance_dln import closed_forms

NOISES = (0.0, 0.7)
SHAPES = {"more points": (9, 6), "fewer points": (4, 6)}
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def loss_of(loss, x, y):
    """The loss as its name says it, of the flat weights."""

    def function(w):
        u, v = w.chunk(2)
        squares = (x @ (u * v) - y).square()
        return {"half_squared_sum": squares.sum() / 2, "squared_sum": squares.sum(), "mse": squares.mean()}[loss]

    return function


def case(loss, noise, n=9, d=6, kind="gaussian", zeros=0):
    net = network(d, zeros=zeros)
    x, y = points(net, kind, n, noise)
    u, v = weights(net)
    r = closed_forms.residual(x, y, u, v)
    return net, x, y, u, v, r, closed_forms.factor(loss, n)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_and_hessian_are_those_of_autograd(loss, noise, shape):
    n, d = SHAPES[shape]
    net, x, y, u, v, r, kappa = case(loss, noise, n, d)
    w, function = torch.cat([u, v]), loss_of(loss, x, y)
    exact = torch.autograd.functional.hessian(function, w)
    found = closed_forms.hessian(x, r, u, v, kappa=kappa)
    assert torch.allclose(found, exact, **TOLERANCE) and exact.abs().max() > 0.1
    (slope,) = torch.autograd.grad(function(w.requires_grad_()), w)
    assert torch.allclose(closed_forms.gradient(x, r, u, v, kappa), slope, **TOLERANCE)
    surface = LossSurface(net, (x, y), loss=loss)
    assert torch.allclose(found, dense_hessian(surface), **TOLERANCE)
    assert torch.allclose(closed_forms.gradient(x, r, u, v, kappa), surface.gradient()[1], **TOLERANCE)
    assert float(surface.loss()) == pytest.approx(float(kappa / 2 * r.square().sum()), rel=1e-12, abs=1e-28)


@pytest.mark.parametrize("zeros", [0, 3])
@pytest.mark.parametrize("scaling", ["none", "elementwise", "balanced", "any"])
@pytest.mark.parametrize(("loss", "noise"), list(itertools.product(LOSSES, NOISES)))
def test_trace_and_largest_eigenvalue_of_the_rescaled_hessian(loss, noise, scaling, zeros):
    net, x, y, u, v, r, kappa = case(loss, noise, zeros=zeros)
    c = torch.rand(12, generator=seeded(8), dtype=torch.float64) if scaling == "any" else c_of(scaling, u, v)
    exact = dense_hessian(LossSurface(net, (x, y), loss=loss)) * torch.outer(c, c)
    assert torch.allclose(closed_forms.hessian(x, r, u, v, c, kappa), exact, **TOLERANCE)
    assert float(closed_forms.trace(x, u, v, c, kappa)) == pytest.approx(float(exact.trace()), rel=1e-12)
    top = float(torch.linalg.eigvalsh(exact)[-1])
    assert float(closed_forms.top_eigenvalue(x, r, u, v, c, kappa)) == pytest.approx(top, rel=1e-12)


def test_without_c_it_is_one():
    _, x, _, u, v, r, _ = case("mse", 0.5)
    ones = torch.ones(12, dtype=torch.float64)
    for plain, scaled in (
        (closed_forms.hessian(x, r, u, v), closed_forms.hessian(x, r, u, v, ones)),
        (closed_forms.trace(x, u, v), closed_forms.trace(x, u, v, ones)),
        (closed_forms.half_trace(u, v), closed_forms.half_trace(u, v, ones)),
        (closed_forms.half_top_eigenvalue(u, v), closed_forms.half_top_eigenvalue(u, v, ones)),
    ):
        assert torch.equal(plain, scaled)


def test_the_lower_left_block_is_the_transpose_of_the_upper_right_one():
    """Equation 7 prints V G U in both places."""
    net, x, y, u, v, r, _ = case("half_squared_sum", 0.7)
    h = dense_hessian(LossSurface(net, (x, y), loss="half_squared_sum"))
    upper = torch.diag(v) @ x.T @ x @ torch.diag(u) + torch.diag(x.T @ r)
    assert torch.allclose(h[:6, 6:], upper, **TOLERANCE) and torch.allclose(h[6:, :6], upper.T, **TOLERANCE)
    assert (upper - upper.T).abs().max() > 1


def test_the_hessian_of_the_paper_is_that_of_half_its_loss():
    """Equation 6 has no 1/2; with X^T X = I and no residual Equations 8 and 9 are the Hessian of the halved loss."""
    _, x, _, u, v, r, _ = case("squared_sum", 0.0, kind="orthonormal")
    printed = torch.cat(
        [torch.cat([torch.diag(v * v), torch.diag(u * v)], 1), torch.cat([torch.diag(u * v), torch.diag(u * u)], 1)]
    )
    half = closed_forms.hessian(x, r, u, v, kappa=closed_forms.factor("half_squared_sum", 9))
    whole = closed_forms.hessian(x, r, u, v, kappa=closed_forms.factor("squared_sum", 9))
    assert torch.allclose(half, printed, **TOLERANCE) and torch.allclose(whole, 2 * printed, **TOLERANCE)
    pairs = torch.cat([torch.zeros_like(u), u * u + v * v]).sort().values
    assert torch.allclose(torch.linalg.eigvalsh(printed), pairs, **TOLERANCE)


@pytest.mark.parametrize("scaling", ["none", "elementwise", "balanced"])
def test_half_the_trace_needs_unit_columns_and_nothing_else(scaling):
    for (n, d), noise, kind in itertools.product(SHAPES.values(), NOISES, DESIGNS):
        if kind == "orthonormal" and n < d:
            continue
        _, x, _, u, v, _, _ = case("mse", noise, n, d, kind)
        c = c_of(scaling, u, v)
        half, form = float(closed_forms.trace(x, u, v, c)) / 2, float(closed_forms.half_trace(u, v, c))
        assert (half == pytest.approx(form, rel=1e-12)) is (kind != "gaussian")


@pytest.mark.parametrize("scaling", ["none", "elementwise", "balanced"])
def test_half_the_largest_eigenvalue_needs_orthonormal_columns_and_no_residual(scaling):
    for noise, kind in itertools.product(NOISES, DESIGNS):
        _, x, _, u, v, r, _ = case("mse", noise, kind=kind)
        c = c_of(scaling, u, v)
        half = float(closed_forms.top_eigenvalue(x, r, u, v, c)) / 2
        form = float(closed_forms.half_top_eigenvalue(u, v, c))
        assert (half == pytest.approx(form, rel=1e-12)) is (kind == "orthonormal" and noise == 0)


def test_what_the_forms_are_for_each_c():
    u, v = weights(network(seed=4))
    beta = u * v
    trace, top = closed_forms.half_trace, closed_forms.half_top_eigenvalue
    for scaling, average, worst in (
        ("balanced", beta.abs().sum(), beta.abs().max()),
        ("elementwise", beta.square().sum(), beta.abs().max() ** 2),
        ("none", (u.square() + v.square()).sum() / 2, (u.square() + v.square()).max() / 2),
    ):
        c = c_of(scaling, u, v)
        assert torch.allclose(trace(u, v, c), average, rtol=1e-14)
        assert torch.allclose(top(u, v, c), worst, rtol=1e-14)


def test_how_far_the_columns_are_from_where_the_forms_hold():
    for kind, (n, d) in itertools.product(DESIGNS, SHAPES.values()):
        if kind == "orthonormal" and n < d:
            continue
        x = design(kind, n, d)
        gram = x.T @ x
        unit, orthonormal = float(closed_forms.off_unit(x)), float(closed_forms.off_orthonormal(x))
        assert unit == pytest.approx(float((gram.diagonal() - 1).abs().max()), abs=1e-14)
        assert orthonormal == pytest.approx(float((gram - torch.eye(d, dtype=gram.dtype)).abs().max()), abs=1e-14)
        assert (unit < 1e-12) is (kind != "gaussian") and (orthonormal < 1e-12) is (kind == "orthonormal")
        # Fewer points than columns cannot have X^T X = I.
        assert n >= d or orthonormal >= 1 / d


def test_the_factor_of_a_loss():
    assert [closed_forms.factor(loss, 8) for loss in closed_forms.CONVENTIONS] == [1.0, 2.0, 0.25]
    with pytest.raises(KeyError):
        closed_forms.factor("cross_entropy", 8)


def test_a_hessian_that_overflows_has_no_eigenvalue():
    big = torch.full((3,), 1e200, dtype=torch.float64)
    assert torch.isnan(closed_forms.top_eigenvalue(torch.ones(4, 3).double(), torch.ones(4).double(), big, big))
