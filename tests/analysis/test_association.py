"""Rank correlations of one entry against scipy, brute force on repeated models, and their intervals."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from acutance import UserError, kendall_tau
from acutance.analysis.association import _Spearman, _Weighted, association
from acutance.analysis.kendall import tau_without_each
from acutance.analysis.machinery.resampling import bootstrap_counts


def columns(n, levels=None, seed=0):
    g = np.random.default_rng([seed, n])
    t = g.normal(size=n)
    s = 0.6 * t + g.normal(size=n)
    return (t, s) if levels is None else (np.round(t * levels), np.round(s * levels))


QUICK = {"resamples": 499, "permutations": 199}


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("n", [4, 9, 40])
def test_values_are_scipys(n, levels):
    t, s = columns(n, levels)
    assert association(t, s, "spearman", **QUICK).value == pytest.approx(scipy.stats.spearmanr(t, s).statistic)
    assert association(t, s, "weighted", **QUICK).value == pytest.approx(scipy.stats.weightedtau(-t, -s).statistic)
    for v in "abc":
        found, plain = association(t, s, f"tau_{v}", **QUICK), kendall_tau(t, s, v, **QUICK)
        assert (found.value, found.low, found.high, found.p) == (plain.tau, plain.low, plain.high, plain.p)


@pytest.mark.parametrize("levels", [None, 1])
def test_a_resample_is_the_coefficient_of_repeated_models(levels):
    """Copies of a model tie with each other in both columns, which neither scipy's coefficient counts."""
    t, s = columns(12, levels, seed=3)
    counts = bootstrap_counts(12, 20, 0)
    spearman, weighted = _Spearman(t, s).of_counts(counts), _Weighted(t, s).of_counts(counts)
    for b, m in enumerate(counts):
        a, c = np.repeat(t, m), np.repeat(s, m)
        assert spearman[b] == pytest.approx(scipy.stats.spearmanr(a, c).statistic)
        assert weighted[b] == pytest.approx(scipy.stats.weightedtau(-a, -c).statistic)


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("make", [_Spearman, _Weighted])
def test_values_without_each_model_are_those_of_the_others(make, levels):
    t, s = columns(14, levels, seed=4)
    without = (1 - np.eye(14)).astype(np.uint8)
    expected = [make(np.delete(t, i), np.delete(s, i)).of_counts(np.ones((1, 13), np.uint8))[0] for i in range(14)]
    found = make(t, s)
    assert found.without_each() == pytest.approx(found.of_counts(without))
    assert found.without_each() == pytest.approx(expected)


def test_a_perfect_ranking_is_perfect_in_every_resample():
    x = np.arange(20.0)
    for make in (_Spearman, _Weighted):
        assert make(x, x**3).of_counts(bootstrap_counts(20, 200, 0)) == pytest.approx(1)


@pytest.mark.parametrize("method", ["spearman", "weighted"])
@pytest.mark.parametrize("levels", [None, 1])
def test_few_models_have_the_exact_p_value(method, levels):
    t, s = columns(6, levels, seed=1)

    def value(a):
        if method == "spearman":
            return scipy.stats.spearmanr(a, s).statistic
        return scipy.stats.weightedtau(-a, -s).statistic

    every = np.array([abs(value(np.array(a))) for a in itertools.permutations(t)])
    assert association(t, s, method, **QUICK).p == pytest.approx((every >= abs(value(t)) - 1e-9).mean())


def test_the_jackknife_is_its_closed_form_for_tau_a():
    t, s = columns(30)
    n, tau = 30, kendall_tau(t, s, **QUICK).tau
    signs = np.sign(t[:, None] - t) * np.sign(s[:, None] - s)
    c = signs.sum(1) / (n - 1)
    assert tau_without_each(t, s) == pytest.approx((n * tau - 2 * c) / (n - 2))
    se = math.sqrt((n - 1) / n * 4 / (n - 2) ** 2 * ((c - tau) ** 2).sum())
    found = association(t, s, interval="jackknife", **QUICK)
    assert (found.low, found.high) == (pytest.approx(tau - 1.959964 * se), pytest.approx(tau + 1.959964 * se))


@pytest.mark.parametrize("method", ["tau_b", "spearman", "weighted"])
def test_intervals_hold_the_value_and_the_two_kinds_are_near(method):
    t, s = columns(60)
    a, b = (association(t, s, method, interval=kind, resamples=1999, permutations=99) for kind in ("bca", "jackknife"))
    assert a.low < a.value < a.high
    assert a.low == pytest.approx(b.low, abs=0.06) and a.high == pytest.approx(b.high, abs=0.06)


def test_perfect_rankings():
    x = np.arange(11.0)
    tau, spearman, weighted = (association(x, -x, m, **QUICK) for m in ("tau_a", "spearman", "weighted"))
    assert tau.value == spearman.value == -1 and tau.low == spearman.low == -1
    assert -0.999 < spearman.high < tau.high < -0.5
    assert association(x, x, interval="jackknife", **QUICK).low == pytest.approx(-tau.high)
    assert math.isnan(weighted.low) and "all pairs agree" in weighted.note


def test_the_weighted_tau_looks_at_the_lowest_values():
    t = np.arange(20.0)
    top, bottom = t.copy(), t.copy()
    top[:4], bottom[-4:] = t[:4][::-1], t[-4:][::-1]
    assert association(t, top, "weighted", **QUICK).value < association(t, bottom, "weighted", **QUICK).value - 0.1


def test_degenerate_columns_have_a_note_and_no_exception():
    short = association([1, 2], [1, 2], **QUICK)
    assert math.isnan(short.value) and short.note == "fewer than 3 models"
    assert association([], [], "spearman", **QUICK).n == 0
    flat = association([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], "spearman", **QUICK)
    assert math.isnan(flat.value) and "same value" in flat.note
    for method in ("tau_b", "tau_c", "spearman", "weighted"):
        flat = association([1, 2, 3, 4, 5], [1, 1, 1, 1, 1], method, **QUICK)
        assert math.isnan(flat.value) and math.isnan(flat.p) and "same value" in flat.note
    tied, alone = association([1, 1, 1, 1], [1, 2, 3, 4], **QUICK), kendall_tau([1, 1, 1, 1], [1, 2, 3, 4])
    assert (tied.value, tied.p) == (alone.tau, alone.p) == (0, 1) and math.isnan(tied.low) and "same" in tied.note
    holes = association([1, 2, np.nan, 3, 4, 6], [1, 3, 3, 2, np.inf, 5], "spearman", **QUICK)
    assert holes.n == 5 and holes.note == "1 models have no value; 1 infinite values ranked as extreme"
    assert association([1, 2, 3, 4, 5], [1, 3, 2, np.inf, 0], infinite="drop", **QUICK).n == 4


def test_mistakes_are_told():
    with pytest.raises(UserError, match="did you mean 'spearman'"):
        association([1, 2, 3], [1, 2, 3], "spearmen")
    with pytest.raises(UserError, match="choose bca or jackknife"):
        association([1, 2, 3], [1, 2, 3], interval="wald")
    with pytest.raises(UserError, match="1 models have an infinite value"):
        association([1, 2, 3], [1, 2, np.inf], infinite="refuse")
    with pytest.raises(UserError, match="one length"):
        association([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="must be numbers"):
        association(["a", "b"], [1, 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "interval"), [("tau_a", "jackknife"), ("spearman", "bca"), ("spearman", "jackknife")]
)
def test_intervals_cover_93_to_97_percent(method, interval):
    g = np.random.default_rng(5)
    for tau in (0.0, 0.5, 0.7):
        rho = math.sin(math.pi / 2 * tau)
        truth = tau if method == "tau_a" else 6 / math.pi * math.asin(rho / 2)
        hits = 0
        for _ in range(4000):
            t = g.normal(size=60)
            s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=60)
            found = association(t, s, method, interval=interval, resamples=999, permutations=1)
            hits += found.low <= truth <= found.high
        assert 0.93 <= hits / 4000 <= 0.97, tau
