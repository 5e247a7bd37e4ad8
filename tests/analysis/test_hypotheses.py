"""The two hypotheses: exact bounds, brute force, known verdicts, and the number of models that a tau needs."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from acutance import UserError, kendall_tau
from acutance.analysis.hypotheses import fewest, models_needed, strong, weak
from acutance.analysis.machinery.selection import clopper_pearson, flattest, quantile_slope, tails
from acutance.analysis.power import power_of, tau_sd

QUICK = {"resamples": 499, "permutations": 199}


def pool(n, tau, seed=0):
    g = np.random.default_rng(seed)
    rho = math.sin(math.pi / 2 * tau)
    t = g.normal(size=n)
    return t, rho * t + math.sqrt(1 - rho**2) * g.normal(size=n)


def test_strong_is_supported_only_when_every_target_is_pooled_and_within():
    t, s = pool(80, 0.8)
    other, _ = pool(80, 0.8, seed=1)
    g = np.arange(80) % 2
    clear = strong({"a": t, "b": t + 0.1 * other}, s, g, threshold=0.5, **QUICK)
    assert clear.verdict == "supported" and len(clear.table) == 4
    assert list(clear.table["scope"]) == ["pooled", "stratified"] * 2
    assert (clear.table["low"] > 0.5).all() and "all 4 rows" in clear.reason
    plain = kendall_tau(t, s, **QUICK)
    assert clear.table.loc[0, ["tau", "low", "high"]].tolist() == [plain.tau, plain.low, plain.high]
    mixed = strong({"a": t, "unrelated": other}, s, threshold=0.5, **QUICK)
    assert mixed.verdict == "refuted" and "unrelated pooled" in mixed.reason
    assert list(mixed.table["verdict"]) == ["supported", "refuted"]


def test_strong_is_refuted_when_the_association_is_only_between_groups():
    g = np.repeat([0, 1], 40)
    rng = np.random.default_rng(2)
    t, s = rng.normal(size=80) + 9 * g, rng.normal(size=80) + 9 * g
    found = strong({"error": t}, s, g, **QUICK)
    assert list(found.table["verdict"]) == ["supported", "refuted"] and found.verdict == "refuted"


def test_strong_is_inconclusive_for_few_models_and_for_many_tries():
    assert strong({"error": pool(10, 0.4)[0]}, pool(10, 0.4)[1], **QUICK).verdict == "inconclusive"
    t, s = pool(60, 0.55)
    once, often = (strong({"e": t}, s, comparisons=k, resamples=9999, permutations=9) for k in (1, 384))
    assert (
        once.table.loc[0, "low"] > often.table.loc[0, "low"] and once.table.loc[0, "high"] < often.table.loc[0, "high"]
    )
    nothing = strong({"e": [1, 1, 1, 1, 1]}, [1, 2, 3, 4, 5], **QUICK)
    assert nothing.verdict == "inconclusive"
    with pytest.raises(UserError, match="at least one"):
        strong({}, s)
    with pytest.raises(UserError, match="threshold"):
        strong({"e": t}, s, threshold=1)


def test_bounds_of_a_proportion_are_scipys_and_known():
    for hits, trials in ((0, 5), (3, 10), (10, 10)):
        exact = scipy.stats.binomtest(hits, trials).proportion_ci(0.9)
        assert clopper_pearson(hits, trials) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert clopper_pearson(0, 5)[1] == pytest.approx(0.45, abs=0.002)
    assert clopper_pearson(0, 29)[1] < 0.1 < clopper_pearson(0, 28)[1]


def test_the_flattest_models_by_hand():
    s = np.arange(10.0)
    t = np.array([3, 1, 9, 0, 2, 4, 5, 6, 7, 8.0])
    found = flattest(t, s, 0.3)
    assert (found.n, found.chosen, found.violations) == (10, 3, 1)
    assert found.regret == pytest.approx((13 / 3) / 4.5) and found.worst_regret == 2
    assert (found.hit_rate, found.miss_rate, found.violation_rate) == (1 / 3, 1 / 3, 1 / 3)
    # All 120 choices of three models.
    choices = [set(c) for c in itertools.combinations(range(10), 3)]
    assert found.hit_p == pytest.approx(np.mean([len(c & {1, 3, 4}) >= 1 for c in choices]))
    assert found.violation_p == pytest.approx(np.mean([len(c & {2, 6, 7, 8, 9}) <= 1 for c in choices]))
    assert (found.violation_low, found.violation_high) == clopper_pearson(1, 3)


def test_equally_flat_models_are_chosen_together():
    t, s = np.arange(10.0), np.array([0, 1, 1, 1, 4, 5, 6, 7, 8, 9.0])
    tied = flattest(t, s, 0.2)
    assert tied.chosen == 4 and "2 more models" in tied.note
    assert flattest(t, np.arange(10.0), 0.2, stderr=np.full(10, 0.6)).chosen == 3
    assert flattest(t, np.arange(10.0), 0.3).chosen == 3


def test_a_perfect_measure_and_a_random_one():
    t = np.arange(100.0)
    perfect = flattest(t, t, 0.2)
    assert perfect.hit_rate == 1 and perfect.violations == 0 and perfect.worst_regret < 0.4
    assert perfect.hit_p == pytest.approx(1 / math.comb(100, 20))
    g = np.random.default_rng(0)
    regrets = [flattest(t, g.permutation(100), 0.2).regret for _ in range(200)]
    assert np.mean(regrets) == pytest.approx(1, abs=0.05)
    curve = tails(t, t, [0.1, 0.5])
    assert curve["lower"].tolist() == [1, 1] and curve["upper"].tolist() == [0, 0]


def test_weak_verdicts():
    t, s = pool(400, 0.85)
    clear = weak(t, s, permutations=99)
    assert clear.verdict == "supported" and clear.table.loc[0, "chosen"] == 40
    assert clear.table.loc[0, "slope"] > 0 and clear.table.loc[0, "slope_p"] < 0.05
    random = weak(t, pool(400, 0, seed=5)[1], permutations=99)
    assert random.verdict == "refuted" and "pooled" in random.reason
    few = weak(t[:50], s[:50], permutations=99)
    assert few.table.loc[0, "violation_high"] > 0.3 and few.verdict == "inconclusive"
    # Well pooled, since one group is flat and good; the flattest of the other are its worst.
    g = np.repeat(["good", "odd"], 400)
    both = np.concatenate([t, 50 - t]), np.concatenate([s, s + 50])
    found = weak(*both, g, permutations=99)
    assert list(found.table["scope"]) == ["pooled", "good", "odd"]
    assert list(found.table["verdict"]) == ["supported", "supported", "refuted"] and found.verdict == "refuted"
    assert weak([1, 1, 1], [1, 2, 3]).verdict == "inconclusive"
    assert weak([1, 2], [1, 2]).verdict == "inconclusive"
    with pytest.raises(UserError, match="one label a model"):
        weak(t, s, [1])
    with pytest.raises(UserError, match="q: must be"):
        weak(t, s, q=1)


def loss(t, r, a, b, q):
    u = t - a - b * r
    return (u * (q - (u < 0))).sum()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("q", [0.5, 0.9])
def test_quantile_regression_is_the_best_line_through_two_models(q, scale):
    g = np.random.default_rng(1)
    t, s = scale * g.exponential(size=17), g.normal(size=17)
    r = scipy.stats.rankdata(s) / 17
    best = min(
        loss(t, r, t[i] - (t[j] - t[i]) / (r[j] - r[i]) * r[i], (t[j] - t[i]) / (r[j] - r[i]), q)
        for i, j in itertools.combinations(range(17), 2)
    )
    found = quantile_slope(t, s, q, permutations=9)
    assert loss(t, r, found.intercept, found.slope, q) == pytest.approx(best, rel=1e-6)


def test_the_slope_sees_a_triangle_that_tau_hardly_sees():
    """Small errors everywhere, large ones only among sharp models: sufficient and not necessary."""
    g = np.random.default_rng(2)
    s = np.arange(60.0)
    t = g.random(60) ** 3 * s
    found = quantile_slope(t, s, permutations=999)
    assert found.slope > 20 and found.p < 0.02
    assert quantile_slope(t, -s, permutations=999).p > 0.9
    half = quantile_slope(t, s, span=0.5, permutations=99)
    assert half.n == 30 and half.slope > 0
    holes = quantile_slope([1, 2, np.inf, 4, 5], [1, 2, 3, 4, 5], permutations=9)
    assert holes.n == 4 and "infinite target" in holes.note
    assert math.isnan(quantile_slope([1, 1, 1], [1, 2, 3]).slope)
    with pytest.raises(UserError):
        quantile_slope(t, s, 1.5)


def test_p_of_the_slope_is_uniform_without_association():
    g = np.random.default_rng(3)
    p = np.array([quantile_slope(*g.normal(size=(2, 40)), permutations=199, seed=k).p for k in range(300)])
    assert (p <= 0.1).mean() == pytest.approx(0.1, abs=0.05) and p.mean() == pytest.approx(0.51, abs=0.05)


def test_the_spread_of_tau_is_that_of_simulations():
    for n, tau in ((10, 0.0), (10, 0.5), (40, 0.2), (40, 0.7)):
        g = np.random.default_rng(n)
        rho = math.sin(math.pi / 2 * tau)
        t = g.normal(size=(3000, n))
        s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=t.shape)
        i, j = np.triu_indices(n, 1)
        taus = (np.sign(t[:, i] - t[:, j]) * np.sign(s[:, i] - s[:, j])).mean(1)
        assert taus.std() == pytest.approx(tau_sd(n, tau), rel=0.05) and taus.mean() == pytest.approx(tau, abs=0.02)


@pytest.mark.parametrize("tau", [0.2, 0.3, 0.6])
def test_as_many_models_as_needed_find_it_as_often_as_asked(tau):
    n = models_needed(tau)
    assert power_of(n, tau) >= 0.8 > power_of(n - 1, tau)
    g = np.random.default_rng(4)
    rho = math.sin(math.pi / 2 * tau)
    t = g.normal(size=(1500, n))
    s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=t.shape)
    found = [scipy.stats.kendalltau(a, b).pvalue < 0.05 for a, b in zip(t, s)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_numbers_of_models():
    assert models_needed(-0.2) == models_needed(0.2) < models_needed(0.2, 0.9) < models_needed(0.1)
    assert models_needed(0.2, comparisons=384) > models_needed(0.2)
    for wrong in ({"tau": 0}, {"tau": 1}, {"power": 0.01}, {"comparisons": 0}, {"tau": 1e-6}):
        with pytest.raises(UserError):
            models_needed(**wrong)


def test_weak_says_when_the_number_of_models_cannot_decide():
    t, s = pool(200, 0.95)
    strict = weak(t, s, permutations=9)
    assert (strict.name, strict.short, strict.needed) == ("weak", 1, 290)
    assert strict.verdict == "inconclusive" and "no outcome could show it in 1 of them" in strict.reason
    assert "that takes 290 models" in strict.reason
    assert strict.table.loc[0, "note"] == "20 models cannot show it: 29 without a violation are needed"
    enough = weak(*pool(290, 0.3), permutations=9)
    assert (enough.short, enough.needed) == (0, 290)
    assert "no outcome" not in enough.reason and enough.table.loc[0, "note"] == ""
    assert fewest(0.1, 0.95) == 29 and fewest(0.2, 0.95) == 14 and fewest(0.1, 0.995) == 51
    many = weak(t, s, comparisons=10, permutations=9)
    assert "51 without" in many.table.loc[0, "note"] and "510 models" in many.reason


def test_the_wide_form_of_weak_decides_with_fifty_models():
    for n, chosen in ((50, 14), (100, 14), (200, 20)):
        found = weak(*pool(n, 0.95), form="wide", permutations=9)
        assert (found.verdict, found.table.loc[0, "chosen"]) == ("supported", chosen), n
        assert "at most 20%" in found.reason
        t, s = pool(n, 0.95)
        assert weak(-t, s, form="wide", permutations=9).verdict == "refuted"
    few = weak(*pool(40, 0.95), form="wide", permutations=9)  # a third of them are 13
    assert few.verdict == "inconclusive" and "that takes 42 models" in few.reason
    assert (few.name, few.short, few.needed) == ("weak_wide", 1, 42)
    groups = weak(*pool(60, 0.95), np.arange(60) % 3, form="wide", permutations=9)
    assert groups.short == 3 and groups.table.loc[0, "note"] == ""  # 20 models each, but pooled there are enough
    with pytest.raises(UserError, match="choose strict or wide"):
        weak(t, s, form="broad")


def of_the_flattest(n, rate, g):
    """Targets of n models by rank of sharpness: each of the flattest third is above the median with this chance."""
    flat = n // 3
    bad = g.random(flat) < rate
    rest = np.r_[np.ones(n // 2 - bad.sum()), np.zeros(n - n // 2 - (flat - bad.sum()))] > 0
    above = np.r_[bad, g.permutation(rest)]
    return np.where(above, 1 + g.random(n), g.random(n))


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 200])
def test_error_rates_of_the_wide_form(n):
    """At the boundary, a violation rate of exactly 20%, it supports in at most 5%; at tau = .95 nearly always."""
    g, s = np.random.default_rng(n), np.arange(float(n))
    wrong = [weak(of_the_flattest(n, 0.2, g), s, form="wide", permutations=1).verdict for _ in range(1000)]
    assert wrong.count("supported") / 1000 <= 0.065 and wrong.count("refuted") / 1000 <= 0.065
    right = [weak(*pool(n, 0.95, seed=k), form="wide", permutations=1).verdict for k in range(200)]
    assert right.count("supported") / 200 >= 0.95
    random = [weak(*pool(n, 0.0, seed=k), form="wide", permutations=1).verdict for k in range(200)]
    assert random.count("supported") == 0 and random.count("refuted") / 200 >= 0.6
