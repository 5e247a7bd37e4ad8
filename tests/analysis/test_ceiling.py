"""Noise ceilings against the closed form of normal errors, known values and simulated test sets."""

import math

import numpy as np
import pytest

from acutance import UserError
from acutance.analysis.ceiling import ceiling_of_spread, noise_ceiling, split_half


@pytest.mark.parametrize(("spread", "expected"), [(0.003, 0.45), (0.001, 0.16)])
def test_the_ceilings_of_small_spreads_are_the_known_ones(spread, expected):
    """MEASURES.md: 9815 test points, an error of 16%."""
    assert ceiling_of_spread(0.16, spread, 9815) == pytest.approx(expected, abs=0.02)
    g = np.random.default_rng(0)
    found = [
        noise_ceiling(g.binomial(9815, 0.16 + spread * g.normal(size=200)) / 9815, 9815, draws=50, seed=k)
        for k in range(12)
    ]
    assert np.mean([f.tau for f in found]) == pytest.approx(expected, abs=0.05)
    assert found[0].noise == pytest.approx(0.0037, abs=1e-4)


def test_the_spread_of_true_errors_is_recovered():
    g = np.random.default_rng(1)
    true = 0.2 + 0.01 * g.normal(size=2000)
    found = noise_ceiling(g.binomial(1000, true) / 1000, 1000, draws=2)
    assert found.spread == pytest.approx(0.01, rel=0.06)
    assert found.tau == pytest.approx(ceiling_of_spread(0.2, 0.01, 1000), abs=0.03)


def test_the_ceiling_is_what_a_perfect_measure_shows():
    g = np.random.default_rng(2)
    shown, told = [], []
    for seed in range(40):
        true = np.sort(g.uniform(0.1, 0.2, size=40))
        counted = g.binomial(500, true) / 500
        pairs = np.sign(counted[:, None] - counted)[np.tril_indices(40, -1)]
        shown.append(pairs.mean())
        told.append(noise_ceiling(counted, 500, draws=40, seed=seed).tau)
    assert np.mean(told) == pytest.approx(np.mean(shown), abs=0.02)


def test_noise_of_the_measure_lowers_the_ceiling():
    g = np.random.default_rng(3)
    errors, value = np.linspace(0.1, 0.3, 30), np.linspace(1, 2, 30)[:, None]
    plain, quiet, loud = (
        noise_ceiling(errors, 5000, r, draws=300).tau
        for r in (None, value + 1e-6 * g.normal(size=(30, 4)), value + 0.5 * g.normal(size=(30, 4)))
    )
    assert quiet == pytest.approx(plain, abs=0.01) and 0.3 < loud < plain - 0.2
    reverse = noise_ceiling(errors, 5000, (value + 1e-6 * g.normal(size=(30, 4)))[::-1], draws=300).tau
    assert reverse == pytest.approx(plain, abs=0.01)
    # In the limit of many test points only the measure's noise is left: two normal variables.
    errors, clean = np.sort(g.normal(0.5, 0.05, size=300)), np.sort(g.normal(size=300))[:, None]
    found = noise_ceiling(errors, 10**9, clean + g.normal(size=(300, 4)), draws=30)
    assert found.tau == pytest.approx(2 / math.pi * math.asin(1 / math.sqrt(1.25)), abs=0.05)


def test_errors_within_test_noise_have_no_ceiling_above_zero():
    found = noise_ceiling([0.5, 0.5, 0.501, 0.499], 100, draws=50)
    assert found.tau == 0 and found.spread == 0 and "no measure can rank" in found.note


def test_split_halves():
    g = np.random.default_rng(4)
    p = g.uniform(0.1, 0.9, size=(30, 1))
    found = split_half(g.random((30, 800)) > p, repeats=50)
    assert 0.8 < found.tau < noise_ceiling(p[:, 0], 800, draws=50).tau
    # All models share the points: errors that differ in one point are told apart when that point is in the half.
    nested = np.arange(200)[None, :] >= 20 * np.arange(1, 6)[:, None]
    assert split_half(nested, repeats=50).tau == 1
    assert "fewer than 3" in split_half([[0, 1], [1, 0]]).note
    with pytest.raises(UserError, match="table of 0 and 1"):
        split_half([[0.5, 1]])


def test_missing_models_and_mistakes():
    found = noise_ceiling([0.1, np.nan, 0.2, 0.3, 0.4], 100, [[1, 2], [1, 2], [3, 4], [np.inf, 1], [4, 6]], draws=20)
    assert found.n == 3 and "1 models have no value; 1 models have fewer than two finite replicates" in found.note
    assert "fewer than 3 models" in noise_ceiling([0.1, 0.2], 100).note
    for arguments, message in (
        (([10, 20, 30], 100), "divide percentages"),
        (([0.1, 0.2], 0.5), "whole number"),
        (([0.1, 0.2], [10]), "whole number"),
        (([0.1, 0.2], 10, [1, 2]), "replicates"),
    ):
        with pytest.raises(UserError, match=message):
            noise_ceiling(*arguments)
    with pytest.raises(UserError):
        ceiling_of_spread(0.1, -1, 100)


@pytest.mark.parametrize("replicates", [None, 4])
def test_few_models_are_compared_pair_by_pair_and_many_are_sorted_to_the_same_end(monkeypatch, replicates):
    g = np.random.default_rng(3)
    e = g.integers(2, 9, 30) / 20  # with ties
    measure = replicates and np.round(e[:, None] + 0.1 * g.normal(size=(30, replicates)), 1)
    right = g.random((30, 41)) > e[:, None]
    by_pairs = noise_ceiling(e, 20, measure), split_half(right)
    monkeypatch.setattr("acutance.analysis.ceiling.FEW", 29)
    assert by_pairs == (noise_ceiling(e, 20, measure), split_half(right))
