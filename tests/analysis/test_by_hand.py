"""Statistics of small tables against the same numbers worked out in another way: what a change of one sign must break."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from findings import findings

from acutance import kendall_tau
from acutance.analysis import hypotheses
from acutance.analysis.adjust import family_p, max_tau_p
from acutance.analysis.association import association
from acutance.analysis.ceiling import _perfect_but_noisy, noise_ceiling
from acutance.analysis.decompose import _drawn_pairs, _resamples, _taus, stratified_tau
from acutance.analysis.hypotheses import strong, weak
from acutance.analysis.machinery.intervals import bca, jackknife
from acutance.analysis.machinery.kernels import pair_sums
from acutance.analysis.machinery.ranked import within
from acutance.analysis.machinery.resampling import permuted_orders
from acutance.analysis.machinery.selection import clopper_pearson, flattest, quantile_slope
from acutance.analysis.matrix import matrix
from acutance.analysis.multiplicity import held_out_radius
from acutance.analysis.reliability import reliability
from acutance.analysis.statistics import pairwise
from acutance.analysis.tables import correlations, definitions_and_values

NOT_ASKED = {"resamples": 9, "permutations": 9}


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (((0.31, 0.9), (0.2, 0.95)), "supported"),  # the lower end at the plain level is what counts
        (((0.29, 0.9), (0.2, 0.95)), "inconclusive"),
        (((0.1, 0.29), (0.0, 0.31)), "inconclusive"),  # one row is enough to refute, so the level is divided
        (((0.1, 0.29), (0.0, 0.299)), "refuted"),
        (((0.30, 0.9), (0.2, 0.95)), "inconclusive"),  # above the threshold, not at it
        (((math.nan, math.nan), (math.nan, math.nan)), "inconclusive"),
    ],
)
def test_the_strong_verdict_rests_on_the_right_end_at_the_right_level(ends, verdict, monkeypatch):
    asked = []

    def tau(t, s, groups, scope, levels, settings):
        asked.append(levels)
        return [{"n": 9, "tau": 0.5, "low": a, "high": b, "p": 0.1, "note": ""} for a, b in ends]

    monkeypatch.setattr(hypotheses, "_tau", tau)
    found = strong({"a": range(9), "b": range(9)}, range(9), [0] * 9, confidence=0.9, comparisons=5)
    assert found.verdict == verdict and set(found.table["verdict"]) == {verdict}
    # Two targets, pooled and stratified: four rows; five definitions were tried.
    assert len(asked) == 4 and asked[0] == pytest.approx([1 - 0.1 / 5, 1 - 0.1 / 5 / 4])


def flat_pool(size, violations, shift=0.0):
    """A group whose flattest tenth has so many models above its median."""
    t = np.arange(float(size))
    flat = size // 10
    bad = np.arange(size - violations, size)
    good = np.arange(flat - violations)
    rest = np.setdiff1d(np.arange(size), np.r_[good, bad])
    return t[np.r_[good, bad, rest]], np.arange(float(size)) + shift


def test_the_weak_verdict_is_corrected_for_rows_to_refute_and_not_to_support():
    groups = [flat_pool(290, 0, shift) for shift in (0, 1000)]
    t, s = (np.concatenate(parts) for parts in zip(*groups))
    found = weak(t, s, np.repeat(["a", "b"], 290), permutations=9)
    rows = found.table.set_index("scope")
    # 29 without a violation: 9.8% at 95%, more than 10% at any higher level.
    assert list(rows.loc[["a", "b"], "verdict"]) == ["supported"] * 2
    assert rows.loc["a", "violation_high"] == clopper_pearson(0, 29, 0.95)[1]
    several = weak(*flat_pool(290, 0), comparisons=2, permutations=9)
    assert (
        several.verdict == "inconclusive" and several.table.loc[0, "violation_high"] == clopper_pearson(0, 29, 0.975)[1]
    )

    alone = weak(*flat_pool(50, 3), permutations=9)
    assert alone.verdict == "refuted"
    groups = [flat_pool(50, 3 if k == 0 else 0, 1000 * k) for k in range(10)]
    t, s = (np.concatenate(parts) for parts in zip(*groups))
    among = weak(t, s, np.repeat(range(10), 50), permutations=9).table.set_index("scope")
    low = [clopper_pearson(3, 5, 1 - 0.05 / rows)[0] for rows in (1, 11)]
    assert low[0] > 0.1 > low[1] and among.loc["0", "verdict"] == "inconclusive"


def test_no_p_of_random_orders_is_smaller_than_one_over_their_number_and_one():
    t, g = np.arange(20.0), np.repeat([0, 1], 10)
    assert kendall_tau(t, t, permutations=99).p == 0.01
    assert stratified_tau(t, t, g, resamples=9, permutations=99).p == 0.01
    assert association(t, t, "spearman", resamples=0, permutations=99).p == 0.01
    assert quantile_slope(t, t, permutations=9).p == 0.1
    plain, adjusted = family_p(t[None], t[None], 99)
    assert plain[0, 0] == adjusted[0, 0] == 0.01


def test_sums_over_fewer_models_are_made_comparable():
    g = np.random.default_rng(0)
    t, s = g.normal(size=(1, 14)), g.normal(size=(3, 14))
    s[1] += t[0]
    s[1, :7] = np.nan
    s[2] += 0.5 * t[0]

    def z(x, y):
        there = ~(np.isnan(x) | np.isnan(y))
        n = there.sum()
        with np.errstate(invalid="ignore"):
            total = np.nansum(np.sign(np.subtract.outer(x, x)) * np.sign(np.subtract.outer(y, y))) / 2
        return abs(total) / (n * (n - 1) / 2) / math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))

    largest = np.array([max(z(t[0][order], row) for row in s) for order in permuted_orders(14, 299, 1)])
    expected = [(1 + (largest >= z(t[0], row) - 1e-9).sum()) / 300 for row in s]
    assert max_tau_p(t, s, 299, 1)[0] == pytest.approx(expected)


def test_copies_of_a_model_are_no_pair_of_a_stratified_resample():
    g = np.repeat([0, 1, 2], [5, 8, 2])
    members = [np.flatnonzero(g == k) for k in range(3)]
    counts = _resamples(members, 15, 300, 0)
    assert all((counts[:, m].sum(1) == len(m)).all() for m in members) and counts.max() > 1
    x = within(g, np.arange(15.0))
    found = _taus(pair_sums(counts, x, x), _drawn_pairs(counts, members))
    assert (found == 1).all()
    # Another group between the two of a pair changes nothing.
    t, s = np.random.default_rng(1).normal(size=(2, 15))
    drawn = _taus(pair_sums(counts, within(g, t), within(g, s)), _drawn_pairs(counts, members))
    for m, value in zip(counts[:20], drawn):
        total = pairs = 0
        for i in range(15):
            for j in range(i):
                if g[i] == g[j]:
                    weight = int(m[i]) * int(m[j])
                    total += weight * np.sign(t[i] - t[j]) * np.sign(s[i] - s[j])
                    pairs += weight
        assert value == pytest.approx(total / pairs)


def test_the_bias_of_an_interval_counts_half_of_the_ties():
    resampled = np.repeat([-0.2, 0.1, 0.3, 0.6], [100, 300, 200, 400])
    without = np.array([0.0, 0.1, 0.05, 0.4, 0.12])
    z0 = scipy.stats.norm.ppf((100 + 300 / 2) / 1000)
    d = without.mean() - without
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    ends = []
    for z in scipy.stats.norm.ppf([0.05, 0.95]):
        ends.append(np.quantile(resampled, scipy.stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))))
    assert bca(0.1, resampled, without, 0.9, 1000) == pytest.approx(tuple(ends)) and ends[0] < ends[1]
    smooth = np.linspace(-0.5, 0.9, 4001)
    assert bca(0.1, smooth, without, 0.9, 4001)[0] != pytest.approx(bca(0.1, smooth, -without, 0.9, 4001)[0], abs=1e-3)


def test_standard_errors_divide_by_one_less():
    values = np.array([0.1, 0.3, 0.2, 0.6, 0.25])
    se = math.sqrt(4 / 5 * ((values - values.mean()) ** 2).sum())
    assert jackknife(0.0, values, 0.6826894921370859) == pytest.approx((-se, se))
    e = np.array([0.1, 0.2, 0.35, 0.5])
    noise = e * (1 - e) / 400
    found = noise_ceiling(e, 400, draws=2)
    assert found.spread == pytest.approx(math.sqrt(np.var(e, ddof=1) - noise.mean()))
    assert found.noise == pytest.approx(math.sqrt(noise.mean()))

    class Ones:
        def normal(self, size):
            return np.ones(size)

    replicates = np.array([[1.0, 3.0], [4.0, 4.0], [9.0, 5.0]])
    sd = np.sqrt(np.var(replicates, axis=1, ddof=1) / 2)
    spread = np.var(replicates.mean(1), ddof=1)
    factor = math.sqrt((spread - (sd**2).mean()) / spread)
    clean = replicates.mean() + factor * (replicates.mean(1) - replicates.mean())
    (seen,) = _perfect_but_noisy(np.array([0.1, 0.2, 0.3]), replicates, 1, Ones())
    assert seen == pytest.approx(clean + sd)
    icc = reliability([1, 2, 3], replicates)
    between = 2 * ((replicates.mean(1) - replicates.mean()) ** 2).sum() / 2
    inside = ((replicates - replicates.mean(1, keepdims=True)) ** 2).sum() / 3
    assert icc.icc == pytest.approx((between - inside) / (between + inside))
    assert icc.icc_mean == pytest.approx((between - inside) / between)


def test_only_usable_values_of_admitted_models_count_and_replicates_are_averaged():
    models = pd.DataFrame(
        {"model": list("abcde"), "admitted": [True, True, True, True, False], "target.e": [1.0, 2, 3, 4, 5]}
    )
    rows = [("a", 1, "ok"), ("a", 5, "ok"), ("b", 2, "not_converged"), ("c", np.inf, "nonfinite"), ("d", 9, "failed")]
    rows += [("e", 0, "ok"), ("d", 1, "budget"), ("d", 1, "unsupported")]
    results = pd.DataFrame(rows, columns=["model", "value", "status"]).assign(measure="m")
    _, values = definitions_and_values(results, [], list("abcd"))
    assert values.tolist()[0][:3] == [3, 2, np.inf] and np.isnan(values[0, 3])
    row = correlations(models, results, targets=["e"], nonfinite="rank_max", **NOT_ASKED).iloc[0]
    assert row["n"] == 3 and row["tau"] == pytest.approx(1 / 3) and "1 models have no value" in row["note"]


@pytest.mark.parametrize(
    "models", [pd.DataFrame(), pd.DataFrame({"model": ["a"], "admitted": [False], "target.e": [0.1]})]
)
@pytest.mark.parametrize("results", [pd.DataFrame(), pd.DataFrame(columns=["model", "measure", "value", "status"])])
def test_tables_without_a_usable_model_or_value_are_empty_tables(models, results):
    found = correlations(models, results, targets=["e"], groups=["g"], within=["pool"], **NOT_ASKED)
    assert len(found) == 0 and {"measure", "target", "tau"} <= set(found.columns)
    tables = findings(
        models, results, targets=["e"], groups=["g"], within=["pool"], controls=["lr"], resamples=9
    ).tables
    assert all(len(table) == 0 for table in tables.values())


def test_halves_that_choose_are_not_those_that_judge():
    """A measure that follows the target on even models only: chosen there, judged elsewhere."""
    g = np.random.default_rng(5)
    t, s = g.normal(size=16), g.normal(size=(6, 16))
    found = held_out_radius(t, s, range(6), repeats=200)
    assert found.tau < found.best and found.optimism > 0.2


def test_models_of_one_definition_missing_leave_the_other_pairs_whole():
    g = np.random.default_rng(3)
    table = pd.DataFrame(g.normal(size=(1200, 3)), columns=list("abc"))
    table.loc[:20, "b"] = np.nan
    table["c"] = table["c"].round(1)
    found = matrix(table)  # more models than are compared all at once
    for x, y in (("a", "b"), ("a", "c"), ("b", "c")):
        both = table[[x, y]].dropna()
        assert found.tau.loc[x, y] == pytest.approx(scipy.stats.kendalltau(both[x], both[y]).statistic)
        assert found.n.loc[x, y] == len(both)
    small = matrix(table[:900])
    assert small.tau.loc["b", "c"] == pytest.approx(
        scipy.stats.kendalltau(*table[["b", "c"]][:900].dropna().to_numpy().T).statistic
    )


def test_the_model_at_the_median_is_no_violation():
    t = np.array([5.0, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10])  # the flattest model is the median one
    s = np.arange(11.0)
    assert flattest(t, s, q=0.3).violations == 0
    assert flattest(np.where(t == 5, 5.5, t), s, q=0.3).violations == 0  # of an odd number it is the median still
    assert flattest(np.where(t == 5, 6.5, t), s, q=0.3).violations == 1


def test_pairs_of_very_many_definitions_are_those_that_go_with_a_target(monkeypatch):
    monkeypatch.setattr(pairwise, "PAIRED", 2)
    g, t = np.random.default_rng(0), np.arange(12.0)
    s = pd.DataFrame({"noise": g.normal(size=12), "same": t, "other": g.normal(size=12), "near": t + g.normal(size=12)})
    table = pairwise.pairs(s, {"t": t})
    assert set(table["definition"]) == {"same", "near"} and "2 of 4 definitions" in table["note"].iloc[0]


def test_p_of_dropped_models_is_from_those_that_stay():
    names, t = [f"{i}" for i in range(7)], np.array([0.0, 1, 2, 3, 4, 5, 6])
    models = pd.DataFrame({"model": names, "admitted": True, "target.t": t})
    value = np.array([0.0, 1, 2, 3, 4, 5, np.inf])  # infinite last: ranked, all seven agree
    results = pd.DataFrame({"model": names, "measure": "m", "value": value, "status": "ok"})
    p = {
        k: correlations(models, results, targets=["t"], nonfinite=k, **NOT_ASKED)["p"][0] for k in ("drop", "rank_max")
    }
    assert p == pytest.approx({"drop": 2 / math.factorial(6), "rank_max": 2 / math.factorial(7)})
