"""Hutchinson, Hutch++ and XTrace against dense matrices in float64: bias, standard error, work, degenerate cases."""

import math

import pytest
import torch
from spectra import SPECTRA, matrix

from acutance import Streams
from acutance.numerics.basis import NonFiniteProduct
from acutance.numerics.traces import hutch_plus_plus, hutchinson, stages, xtrace

ESTIMATORS = {"hutchinson": hutchinson, "hutch++": hutch_plus_plus, "xtrace": xtrace}
SEEDS = 200


def draw_of(p, seed, dtype=torch.float64):
    like = torch.empty(p, dtype=dtype)
    return lambda k: Streams(seed).signs("z", k, like)


def runs(name, a, products, rtol=0.0, seeds=SEEDS):
    found = [ESTIMATORS[name](lambda x: a @ x, draw_of(len(a), s), products, rtol) for s in range(seeds)]
    return found, torch.tensor([e.value for e in found], dtype=torch.float64)


# The two that differ most: eigenvalues of one sign that decay, and of both signs.
WITH_SLOW = [pytest.param(s, marks=pytest.mark.slow) for s in ("flat", "exponential")] + ["power", "more_negative"]


@pytest.mark.parametrize("spectrum", WITH_SLOW)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_unbiased_with_the_right_standard_error(name, spectrum):
    a = matrix(spectrum)
    found, values = runs(name, a, 24)
    spread = float(values.std())
    assert abs(float(values.mean()) - float(a.trace())) < 4 * spread / math.sqrt(SEEDS)
    reported = math.sqrt(sum(e.stderr**2 for e in found) / SEEDS)
    assert reported == pytest.approx(spread, rel=0.2)
    assert all(e.products <= 24 for e in found)


@pytest.mark.parametrize("name", ["hutch++", "xtrace"])
def test_exact_for_fewer_eigenvalues_than_probes(name):
    a = matrix("low_rank")
    found, values = runs(name, a, 24, seeds=5)
    assert torch.allclose(values, a.trace().expand(5), rtol=1e-11)
    assert all(e.stderr < 1e-8 for e in found)


@pytest.mark.parametrize("name,worse", [("hutch++", 0.4), ("xtrace", 0.3)])
def test_a_decaying_spectrum_is_where_they_pay(name, worse):
    a = matrix("power")
    errors = {n: float((runs(n, a, 24, seeds=60)[1] - a.trace()).square().mean().sqrt()) for n in ("hutchinson", name)}
    assert errors[name] < worse * errors["hutchinson"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_stops_where_the_standard_error_is_small_enough(name):
    a = matrix("power") + 2 * torch.eye(80)
    few = ESTIMATORS[name](lambda x: a @ x, draw_of(80, 3), 300, 0.02)
    assert few.converged and few.products < 300 and few.stderr <= 0.02 * few.value
    every = ESTIMATORS[name](lambda x: a @ x, draw_of(80, 3), 60)
    assert every.converged and 58 <= every.products <= 60
    hopeless = ESTIMATORS[name](lambda x: matrix("flat") @ x, draw_of(80, 3), 20, 1e-6)
    assert not hopeless.converged and hopeless.products >= 18


def test_a_sum_looks_rarely_whether_it_may_end():
    assert list(stages(100, 0.1)) == [8, 16, 32, 64, 100]
    assert list(stages(100, 0.0)) == [100] and list(stages(5, 0.1)) == [5]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_signs_know_a_diagonal(name):
    d = torch.linspace(-1, 3, 40, dtype=torch.float64)
    found = ESTIMATORS[name](lambda x: d * x, draw_of(40, 0), 12)
    if name == "hutchinson":
        assert found.value == pytest.approx(float(d.sum()), rel=1e-12) and found.stderr < 1e-12
    assert abs(found.value - float(d.sum())) <= 4 * found.stderr + 1e-10


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_more_probes_than_dimensions(name, p):
    """Random signs of so few dimensions are equal, or opposite, again and again."""
    a = matrix("flat", 5)[:p, :p]
    for seed in range(20):
        found = ESTIMATORS[name](lambda x: a @ x, draw_of(p, seed), 24)
        assert found.value == pytest.approx(float(a.trace()), abs=6 * found.stderr + 1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_zero_operator_is_told(name):
    found = ESTIMATORS[name](torch.zeros_like, draw_of(6, 0), 12)
    assert found.value == 0 and found.exactly_zero
    a = matrix("flat", 6)
    assert not ESTIMATORS[name](lambda x: a @ x, draw_of(6, 0), 12).exactly_zero


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_product_that_is_not_finite_is_no_number(name, bad):
    with pytest.raises(NonFiniteProduct):
        ESTIMATORS[name](lambda x: torch.full_like(x, bad), draw_of(6, 0), 12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_single_precision(name):
    a = matrix("power")
    single = ESTIMATORS[name](lambda x: a.float() @ x, draw_of(80, 1, torch.float32), 24)
    double = ESTIMATORS[name](lambda x: a @ x, draw_of(80, 1), 24)
    assert single.value == pytest.approx(double.value, rel=1e-4)


def test_the_spectra_are_what_they_are_called():
    for name in SPECTRA:
        assert torch.allclose(matrix(name), matrix(name).T)
