"""False discovery rates against their definition, and radii judged on models that did not choose them."""

import math

import numpy as np
import pytest

from acutance import UserError, kendall_tau
from acutance.analysis.multiplicity import _halves, false_discovery, held_out_radius


@pytest.mark.parametrize("dependent", [False, True])
def test_adjusted_values_are_their_definition(dependent):
    p = np.random.default_rng(0).random(30) ** 3
    c = sum(1 / i for i in range(1, 31)) if dependent else 1
    order = np.argsort(p)
    expected = np.empty(30)
    for rank, i in enumerate(order):
        expected[i] = min(min(1, 30 * c / (j + 1) * p[order[j]]) for j in range(rank, 30))
    assert false_discovery(p, dependent) == pytest.approx(expected)


def test_missing_tests_do_not_count_and_shape_is_kept():
    p = np.array([[0.01, np.nan], [0.04, 0.02]])
    assert false_discovery(p) == pytest.approx(np.array([[0.03, np.nan], [0.04, 0.03]]), nan_ok=True)
    assert np.isnan(false_discovery([np.nan])).all() and false_discovery([]).shape == (0,)
    with pytest.raises(UserError, match="between 0 and 1"):
        false_discovery([1.2])


def test_the_false_discovery_rate_is_held():
    """80 true null hypotheses of 100: of what is found, 5% x 0.8 are false in the mean."""
    g = np.random.default_rng(1)
    shares = []
    for _ in range(400):
        p = g.random(100)
        p[:20] = p[:20] * 1e-3
        found = false_discovery(p) < 0.05
        shares.append(found[20:].sum() / max(found.sum(), 1))
    assert np.mean(shares) == pytest.approx(0.04, abs=0.012)


def test_held_out_taus_are_kendalls_of_the_halves():
    g = np.random.default_rng(2)
    t = g.normal(size=15)
    s = t + g.normal(size=(4, 15)) * np.array([[3], [1], [2], [5]])
    half = _halves(15, 40, 0).astype(bool)
    assert (half.sum(1) == 7).all()
    there, picks, gaps = [], [], []
    for h in half:
        taus = [kendall_tau(t[h], row[h], resamples=9, permutations=9).tau for row in s]
        picks.append(int(np.argmax(taus)))
        there.append(kendall_tau(t[~h], s[picks[-1]][~h], resamples=9, permutations=9).tau)
        gaps.append(max(taus) - there[-1])
    found = held_out_radius(t, s, [0.1, 0.2, 0.4, 0.8], repeats=40)
    assert found.tau == pytest.approx(np.median(there)) and found.optimism == pytest.approx(np.median(gaps))
    assert (found.low, found.high) == (
        pytest.approx(np.quantile(there, 0.025)),
        pytest.approx(np.quantile(there, 0.975)),
    )
    assert found.chosen == {r: picks.count(k) / 40 for k, r in enumerate([0.1, 0.2, 0.4, 0.8])}
    assert found.best == max(kendall_tau(t, row, resamples=9, permutations=9).tau for row in s)


def test_noise_that_looks_good_at_its_best_radius_is_nothing_held_out():
    g = np.random.default_rng(3)
    best, strongest, held = [], [], []
    for seed in range(30):
        t, s = g.normal(size=24), g.normal(size=(20, 24))
        found = held_out_radius(t, s, range(20), repeats=100, seed=seed)
        best.append(found.best)
        held.append(found.tau)
        strongest.append(held_out_radius(t, s, range(20), select="strongest", repeats=100, seed=seed).tau)
    assert np.mean(best) > 0.2 and np.mean(held) < 0.08
    assert np.mean(strongest) < 0.08


def test_a_negative_association_is_found_by_its_strength():
    t = np.arange(20.0)
    s = np.stack([-t, np.random.default_rng(4).normal(size=20)])
    found = held_out_radius(t, s, [1, 2], select="strongest", repeats=50)
    assert found.chosen == {1: 1.0, 2: 0.0} and found.tau == 1.0 and found.best == -1.0


def test_degenerate_input():
    few = held_out_radius(range(6), [range(6)], [0.1])
    assert math.isnan(few.tau) and "8 models" in few.note
    s = np.arange(24.0).reshape(2, 12)
    s[0, 3] = np.nan
    assert held_out_radius(range(12), s, [1, 2], repeats=10).n == 11
    for values, radii in ((s, [1]), (s, [1, 1]), (s[0], [1])):
        with pytest.raises(UserError, match="different radii"):
            held_out_radius(range(12), values, radii)
    with pytest.raises(UserError, match="largest or strongest"):
        held_out_radius(range(12), s, [1, 2], select="best")
