"""Lanczos against dense matrices in float64: values, bounds, quadrature, orthogonality, memory, breakdown."""

import gc
import weakref

import pytest
import torch
from spectra import SPECTRA, matrix, seeded

from acutance.numerics.basis import Basis, NonFiniteProduct
from acutance.numerics.lanczos import Lanczos, largest_eigenvalues


def start(p, seed=0, dtype=torch.float64):
    return torch.randn(p, generator=seeded(seed), dtype=dtype)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_largest_eigenvalue_is_met_within_its_bound(spectrum):
    a = matrix(spectrum)
    exact = torch.linalg.eigvalsh(a)
    for seed in range(10):
        for tol in (1e-2, 1e-4, 1e-8):
            found = largest_eigenvalues(lambda x: a @ x, Lanczos(start(80, seed)), tol, 80)
            assert found.converged and found.bounds[0] <= tol * abs(found.values[0]) + 1e-13
            # At a loose tolerance the largest may hide from the start vector: the value is then its neighbour's.
            assert float((exact - found.values[0]).abs().min()) <= max(found.bounds[0], 1e-13)
            if tol <= 1e-4:
                assert abs(found.values[0] - float(exact[-1])) <= max(found.bounds[0], 1e-13)


def test_the_largest_is_algebraic_not_the_largest_magnitude():
    a = matrix("more_negative")
    found = largest_eigenvalues(lambda x: a @ x, Lanczos(start(80)), 1e-8)
    assert found.values[0] == pytest.approx(3.0, rel=1e-6)


def test_the_three_largest():
    a = matrix("power")
    exact = torch.linalg.eigvalsh(a).flip(0)[:3]
    found = largest_eigenvalues(lambda x: a @ x, Lanczos(start(80)), 1e-8, k=3)
    assert found.converged and torch.allclose(torch.tensor(found.values, dtype=torch.float64), exact, rtol=1e-7)
    assert len(found.bounds) == 3


def test_as_many_eigenvalues_as_were_asked_for_though_fewer_converge_at_once():
    """A start near an eigenvector has one within its bound after one product: the run goes on for the others."""
    eigenvalues = torch.arange(40, 0, -1, dtype=torch.float64)
    near = 1e-7 * start(40)
    near[0] = 1.0
    found = largest_eigenvalues(lambda x: eigenvalues * x, Lanczos(near), 1e-4, k=3)
    assert found.converged and len(found.values) == len(found.bounds) == 3 and found.products > 3
    assert found.values == pytest.approx([40.0, 39.0, 38.0], rel=1e-3)


def test_a_limit_of_products_is_kept_and_told():
    a = matrix("flat")
    found = largest_eigenvalues(lambda x: a @ x, Lanczos(start(80)), 1e-8, 4)
    assert not found.converged and found.products == 4
    exact = torch.linalg.eigvalsh(a)
    distance = float((exact - found.values[0]).abs().min())
    assert distance <= found.bounds[0]


def test_a_longer_run_gives_the_values_of_a_new_one():
    a = matrix("power")
    new = largest_eigenvalues(lambda x: a @ x, Lanczos(start(80)), 1e-4)
    long = Lanczos(start(80))
    long.extend(lambda x: a @ x, 30)
    long.forget()
    again = largest_eigenvalues(lambda x: pytest.fail("no product is needed"), long, 1e-4)
    assert (again.values, again.bounds, again.products) == (new.values, new.bounds, new.products)
    with pytest.raises(RuntimeError, match="freed"):
        long.extend(lambda x: a @ x, 31)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_the_basis_stays_orthonormal(dtype, tolerance):
    a = matrix("exponential", 200).to(dtype)
    run = Lanczos(start(200, dtype=dtype))
    assert run.extend(lambda x: a @ x, 60) > 20
    q = torch.stack([run._basis[i] for i in range(len(run._basis))])
    assert (q @ q.T - torch.eye(len(q), dtype=dtype)).abs().max() < tolerance


def test_ritz_values_and_weights_are_gauss_quadrature():
    """k products integrate polynomials of degree 2k - 1 exactly."""
    a = matrix("flat")
    v = start(80)
    v /= v.norm()
    run = Lanczos(v.clone())
    run.extend(lambda x: a @ x, 5)
    ritz = run.ritz()
    assert float(ritz.weights.sum()) == pytest.approx(1)
    power = v.clone()
    for degree in range(10):
        assert float((ritz.weights * ritz.values**degree).sum()) == pytest.approx(float(v @ power), abs=1e-11)
        power = a @ power


def test_an_invariant_subspace_ends_the_run():
    a = torch.diag(torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0], dtype=torch.float64))
    run = Lanczos(start(5))
    assert run.extend(lambda x: a @ x, 5) == 2 and run.exhausted
    assert run.ritz().values.tolist() == pytest.approx([2, -1])
    assert run.ritz().residuals.tolist() == [0, 0]
    found = largest_eigenvalues(lambda x: a @ x, Lanczos(start(5)), 1e-12)
    assert found.converged and found.products == 2 and found.bounds == [0]


def test_the_zero_operator():
    found = largest_eigenvalues(torch.zeros_like, Lanczos(start(5)), 1e-12)
    assert found.converged and found.values == [0] and found.products == 1 and found.ritz.norm == 0


def test_a_product_that_is_not_finite_leaves_the_run_as_it_was():
    a = matrix("flat")
    run = Lanczos(start(80))
    run.extend(lambda x: a @ x, 3)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NonFiniteProduct):
            run.extend(lambda x, bad=bad: torch.full_like(x, bad), 4)
    assert run.products == 3
    assert run.extend(lambda x: a @ x, 6) == 6
    straight = Lanczos(start(80))
    straight.extend(lambda x: a @ x, 6)
    assert torch.equal(run.ritz().values, straight.ritz().values)


def test_k_products_hold_k_plus_two_vectors():
    """One for each product, and the product's own with what it is made of."""
    p, k = 300_000, 6
    d = torch.linspace(-1, 1, p)
    run, peak, alive = Lanczos(start(p, dtype=torch.float32)), 0, []

    def product(x):
        nonlocal peak
        y = d * x
        alive.append(weakref.ref(y))
        gc.collect()
        peak = max(peak, len(run._basis) + sum(r() is not None for r in alive))
        return y

    run.extend(product, k)
    assert peak <= k + 1 and len(run._basis) == k + 1  # the last vector would be the next product's
    assert run.nbytes == 4 * p * (k + 1)


def test_vectors_that_bring_nothing_new_are_not_added():
    basis = Basis(start(4))
    for k in range(3):
        basis.insert(start(4, k))
    c, r = basis.insert(start(4, 1) - 2 * start(4, 2))
    assert r == 0 and len(basis) == 3 and len(c) == 3
    assert basis.insert(torch.zeros(4, dtype=torch.float64))[1] == 0
    basis.insert(start(4, 7))
    x = start(4, 8)
    c, r = basis.insert(x.clone())
    assert r == 0 and len(basis) == 4
    assert torch.allclose(sum(c[i] * basis[i] for i in range(4)), x)
