"""Kendall's tau, its interval and its p-value against brute force, scipy and known numbers."""

import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from acutance import UserError, kendall_tau
from acutance.analysis.adjust import family_p, max_tau_p
from acutance.analysis.machinery import kernels, perfect, permuting, resampling
from acutance.analysis.machinery.kernels import agreements, pair_sums, plain_sums, sums_without_each
from acutance.analysis.machinery.perfect import perfect_bound
from acutance.analysis.machinery.permuting import family_sums, permuted_sums
from acutance.analysis.machinery.ranked import Family, Ranked
from acutance.analysis.machinery.resampling import bootstrap_counts, order_blocks, permuted_orders

DATA = Path(__file__).parents[3] / "shared" / "data"


def signs(x):
    return np.sign(np.subtract.outer(x, x)).astype(int)


def brute(t, s):
    pairs = list(itertools.combinations(range(len(t)), 2))
    return sum(np.sign(t[i] - t[j]) * np.sign(s[i] - s[j]) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("n", [2, 3, 9, 40])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_tau_a_is_equation_4_and_b_and_c_are_scipys(n, levels):
    g = np.random.default_rng(n)
    t, s = g.integers(levels, size=n).astype(float), g.integers(levels, size=n).astype(float)
    t[0], t[1], s[0], s[1] = 0, 1, 0, 1
    assert kendall_tau(t, s).tau == pytest.approx(brute(t, s), abs=1e-12)
    for variant in "bc":
        expected = scipy.stats.kendalltau(t, s, variant=variant).statistic
        assert kendall_tau(t, s, variant).tau == pytest.approx(expected, abs=1e-12)


def test_pairs_of_ties_tell_the_variants_apart():
    x = [1, 1, 2, 2, 3, 3, 4, 4]
    a, b, c = (kendall_tau(x, x, v) for v in "abc")
    assert (round(a.tau, 3), b.tau, c.tau, a.ties) == (0.857, pytest.approx(1), pytest.approx(1), 4)
    y = [1, 2, 3, 4, 5, 6, 7, 8]
    assert round(kendall_tau(x, y, "b").tau, 3) == 0.926


def test_a_perfect_ranking_is_not_shrunk_by_self_duplicates():
    counts = bootstrap_counts(50, 500, 0)
    x = Ranked.of(np.arange(50.0))
    sums = pair_sums(counts, x, x)
    assert (sums[:, 0] == sums[:, 1]).all()
    # With the ties of duplicates counted the mean would be about 1 - 1/M.
    naive = sums[:, 0] / (50 * 49 / 2)
    assert naive.mean() == pytest.approx(0.98, abs=0.002)


def test_a_perfect_ranking_has_an_honest_interval():
    found = kendall_tau(range(20), range(20))
    assert (found.tau, found.high) == (1.0, 1.0)
    assert found.low == perfect_bound(20, 0.025)
    assert "all pairs agree" in found.note
    assert kendall_tau(range(20), range(0, -20, -1)).high == pytest.approx(-found.low)


@pytest.mark.parametrize("n", [4, 5, 6, 8, 11, 20])
def test_a_perfect_ranking_excludes_zero_when_chance_does_not_make_one(n):
    found = kendall_tau(range(n), range(n))
    assert (found.low > 0) == (1 / math.factorial(n) < 0.025) == (found.p < 0.05)


def test_a_perfect_ranking_is_no_worse_than_one_with_a_swapped_pair():
    for n in (8, 11, 20):
        swapped = list(range(n))
        swapped[:2] = 1, 0
        assert kendall_tau(range(n), range(n)).low > kendall_tau(range(n), swapped).low > 0


@pytest.mark.parametrize("n", [5, 11, 30])
def test_normal_scores_are_ranked_perfectly_as_often_at_the_bound_as_it_says(n):
    rho = math.sin(math.pi / 2 * perfect_bound(n, 0.1))
    g = np.random.default_rng(n)
    x = np.sort(g.normal(size=(20000, n)), axis=1)
    y = rho * x + math.sqrt(1 - rho**2) * g.normal(size=x.shape)
    assert (np.diff(y) > 0).all(1).mean() == pytest.approx(0.1, abs=0.012)


def test_the_bound_of_two_models_is_known():
    """Two models agree with probability (1 + tau) / 2."""
    assert perfect_bound(2, 0.3, 200_000) == pytest.approx(-0.4, abs=0.01)


def test_the_bound_is_the_same_in_pieces_and_of_many_models_in_little_memory(monkeypatch):
    def at_once(n, alpha, draws, seed):
        g = np.random.default_rng([seed, n, 3])
        x, z = np.sort(g.normal(size=(draws, n)), axis=1), g.normal(size=(draws, n))
        return 2 / math.pi * math.atan(np.quantile((-np.diff(z) / np.diff(x)).max(1), alpha))

    plain = perfect_bound.__wrapped__
    cases = [(2, 0.3, 50, 0), (11, 0.025, 999, 3), (40, 0.1, 100, 1)]
    for piece in (perfect.PIECE, 100, 1):
        monkeypatch.setattr(perfect, "PIECE", piece)
        assert [plain(*case) for case in cases] == [at_once(*case) for case in cases]
    monkeypatch.undo()
    tracemalloc.start()
    plain(5000, 0.025, 999)  # 40 MB an array at once
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize(("n", "bound"), [(20, 0.32), (50, 0.19), (72, 0.16)])
def test_the_null_distribution_has_the_known_width(n, bound):
    x = Family(np.arange(float(n))[None])
    taus = permuted_sums(permuted_orders(n, 9999, 0), x, x) / (n * (n - 1) / 2)
    assert np.quantile(np.abs(taus), 0.95) == pytest.approx(bound, abs=0.012)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_small_samples_have_the_exact_p_value(n):
    g = np.random.default_rng(n)
    t, s = g.normal(size=n), g.normal(size=n)
    observed = abs(brute(t, s))
    perms = [abs(brute(np.array(p), s)) for p in itertools.permutations(t)]
    assert kendall_tau(t, s).p == pytest.approx(np.mean(np.array(perms) >= observed - 1e-12))
    assert kendall_tau(t, s).p == pytest.approx(scipy.stats.kendalltau(t, s, method="exact").pvalue, abs=1e-9)


def test_the_interval_is_that_of_scipys_bca():
    g = np.random.default_rng(1)
    t = g.normal(size=25)
    s = t + g.normal(size=25)
    ours = kendall_tau(t, s)

    def statistic(t, s, axis=None):
        x, y = signs(t), signs(s)
        same = (t[:, None] == t[None, :]) & ~np.eye(len(t), dtype=bool)
        return (x * y).sum() / (len(t) * (len(t) - 1) - same.sum())

    theirs = scipy.stats.bootstrap(
        (t, s), statistic, paired=True, vectorized=False, n_resamples=4000, method="BCa", random_state=0
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)
    assert ours.low < ours.tau < ours.high


@pytest.mark.slow
@pytest.mark.parametrize("n", [15, 30])
def test_the_interval_covers_the_truth_as_often_as_it_says(n):
    g = np.random.default_rng(0)
    rho = 0.6
    truth = 2 / math.pi * math.asin(rho)
    hits = 0
    for _ in range(400):
        t = g.normal(size=n)
        s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=n)
        found = kendall_tau(t, s, resamples=1999, permutations=1)
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 400 <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 0.5, -0.7])
@pytest.mark.parametrize("n", [50, 80, 200])
def test_the_interval_covers_93_to_97_percent(n, tau):
    g = np.random.default_rng(1)
    rho = math.sin(math.pi * tau / 2)
    hits = 0
    for _ in range(4000):
        t = g.normal(size=n)
        s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=n)
        found = kendall_tau(t, s, resamples=1999, permutations=1)
        hits += found.low <= tau <= found.high
    assert 0.93 <= hits / 4000 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.8, 0.9, 0.97])
@pytest.mark.parametrize("n", [8, 11, 20])
def test_strong_associations_of_few_models_are_covered_too(n, tau):
    g = np.random.default_rng(2)
    rho = math.sin(math.pi * tau / 2)
    hits = 0
    for _ in range(1000):
        t = g.normal(size=n)
        s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=n)
        found = kendall_tau(t, s, resamples=999, permutations=1)
        hits += found.low <= tau <= found.high
    assert hits / 1000 >= 0.94


@pytest.mark.parametrize("n", [7, 25])
def test_p_is_uniform_without_association(n):
    """All permutations of 7 models, a sample of those of 25; ties of tau make p a little larger, never smaller."""
    g = np.random.default_rng(3)
    draws = 2000
    p = np.array([kendall_tau(*g.normal(size=(2, n)), resamples=1, permutations=199).p for _ in range(draws)])
    for level in (0.02, 0.05, 0.1, 0.3, 0.6):
        share, noise = (p <= level).mean(), 4 * math.sqrt(level * (1 - level) / draws)
        steps = 0.12 if n == 7 else 0.025  # probability of the most likely value of |tau|
        assert level - steps - noise <= share <= level + noise, level


def test_increasing_transforms_change_nothing_and_order_of_models_neither():
    g = np.random.default_rng(2)
    t, s = g.normal(size=12), g.normal(size=12)
    base = kendall_tau(t, s)
    assert kendall_tau(np.exp(t), s**3) == base
    assert kendall_tau(-t, s).tau == -base.tau
    order = g.permutation(12)
    assert kendall_tau(t[order], s[order]).tau == base.tau


def test_nonfinite_values_need_a_policy():
    t, s = [1, 2, 3, 4, 5], [1, 2, 3, math.inf, math.nan]
    with pytest.raises(UserError, match=r"2 of 5 models have a non-finite value.*nonfinite='drop'"):
        kendall_tau(t, s)
    dropped = kendall_tau(t, s, nonfinite="drop")
    assert dropped.n == 3 and "2 models" in dropped.note
    with pytest.raises(UserError):
        kendall_tau(t, s, nonfinite="rank_max")
    ranked = kendall_tau(t[:4], s[:4], nonfinite="rank_max")
    assert ranked.tau == 1.0 and "1 infinite" in ranked.note


def test_degenerate_columns_give_no_interval_but_a_reason():
    tied = kendall_tau([1, 1, 1, 1], [1, 2, 3, 4])
    assert tied.tau == 0 and math.isnan(tied.low) and tied.note == "all pairs are tied" and tied.p == 1
    for variant in ("b", "c"):  # divided by nothing: not defined, and so neither is its p
        tied = kendall_tau([1, 1, 1, 1], [1, 2, 3, 4], variant)
        assert math.isnan(tied.tau) and math.isnan(tied.p) and math.isnan(tied.low)
        assert tied.note == "all pairs are tied" and "not defined" in tied.line
    assert kendall_tau([1, 2], [1, 2]).tau == 1
    short = kendall_tau([1, 2, 3], [1, 3, 2])
    assert math.isnan(short.low) and "at least 4" in short.note


@pytest.mark.parametrize(
    ("t", "s", "message"),
    [([1], [1], "at least two"), ([1, 2], [1, 2, 3], "one length"), (["a", "b"], [1, 2], "must be numbers")],
)
def test_bad_columns(t, s, message):
    with pytest.raises(UserError, match=message):
        kendall_tau(t, s)
    with pytest.raises(UserError, match="choose a, b or c"):
        kendall_tau([1, 2], [1, 2], "d")


def test_results_do_not_depend_on_the_number_of_threads():
    code = (
        "import numpy as np, acutance; g = np.random.default_rng(0); t, s = g.normal(size=(2, 60));"
        "print(repr(acutance.kendall_tau(t, s)))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**__import__("os").environ, "NUMBA_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1


def test_small_tables_wake_no_threads(monkeypatch):
    started = []
    pool = kernels.ThreadPoolExecutor
    monkeypatch.setattr(kernels, "ThreadPoolExecutor", lambda threads: started.append(threads) or pool(threads))
    monkeypatch.setattr(kernels, "THREADS", 2)
    for n in (40, 300):
        assert not started
        t, s = np.random.default_rng(0).normal(size=(2, n))
        kendall_tau(t, s), max_tau_p(t[None], s[None])
    assert set(started) == {2}


@pytest.mark.parametrize("n", [12, 60, 400])
def test_one_thread_and_many_give_the_same_bits(n):
    g = np.random.default_rng(n)
    x, y = g.normal(size=n), np.round(g.normal(size=n), 1)
    a, b, counts = Ranked.of(x), Ranked.of(y), bootstrap_counts(n, 333, 0)
    arranged = kernels._arranged.serial(counts, a.order)
    rows = (arranged, a.ends, b.codes[a.order], b.levels, b.tied, np.zeros(kernels.LANES, np.int16))
    one, many = (kernels._weighted(0, *rows, threads=k) for k in (1, 3))
    assert (one == many).all() and one.size == 384


def columns_with_ties(n, missing=False):
    g = np.random.default_rng(n)
    values = np.concatenate([g.normal(size=(2, n)), np.round(g.normal(size=(2, n))), np.ones((1, n))])
    if missing:
        values[1, n // 2] = values[3, :2] = np.nan
    return values


@pytest.mark.parametrize("n", [2, 9, 12, 64, 300])
def test_permuted_sums_are_those_of_a_plain_loop(n, monkeypatch):
    """Both ways: all pairs as bits, and in n log n."""
    values = columns_with_ties(n, missing=True)
    with np.errstate(invalid="ignore"):
        x = np.nan_to_num(np.sign(values[:, :, None] - values[:, None, :])).astype(int)
    orders = permuted_orders(n, 40, 0)[:40]
    upper = np.triu_indices(n, 1)
    plain = np.array([[[(a[np.ix_(o, o)] * b)[upper].sum() for b in x] for a in x] for o in orders])
    for packed in (0, 10**6):
        monkeypatch.setattr(permuting, "PACKED", packed)
        assert (family_sums(orders, Family(values), Family(values)) == plain).all()
        assert (permuted_sums(orders, Family(values[:1]), Family(values[2:3])) == plain[:, 0, 2]).all()


@pytest.mark.parametrize("n", [63, 64, 65, 4096, 4097, 20_000, 70_000])
def test_permuted_sums_of_many_models_are_those_of_sorted_columns(n):
    """Ranks are looked at by digits of six bits: at each of their ends, with ties and gaps in either column or both."""
    g = np.random.default_rng(n)
    x, y = (np.stack([g.normal(size=n), np.round(g.normal(size=n), 1), g.integers(3, size=n) * 1.0]) for _ in "xy")
    for values in (x, y):
        values[:, g.random(n) < 0.02] = np.nan
    x, y = np.concatenate([x, g.normal(size=(1, n))]), np.concatenate([y, g.normal(size=(1, n))])
    order = g.permutation(n).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permuting, "PACKED", 0)
        found = family_sums(order[None], Family(x), Family(y))[0]
    for a, column in enumerate(x):
        for b, other in enumerate(y):
            both = ~np.isnan(column[order] + other)
            plain = plain_sums(Ranked.of(column[order][both]), Ranked.of(other[both]))[0]
            assert found[a, b] == plain, (a, b)


@pytest.mark.parametrize("n", [2**15 - 1, 2**15 + 1])
def test_lower_less_higher_models_fit_their_type_where_all_agree(n):
    """The tree overflows on purpose; what is taken from it must not: a perfect ranking is the largest there is."""
    column = Ranked.of(np.arange(n) * 1.0)
    for other in (column, Ranked.of(-np.arange(n) * 1.0)):
        sums = pair_sums(np.ones((2, n), np.uint8), column, other)
        assert (np.abs(sums[:, 0]) == n * (n - 1) // 2).all()


def test_what_does_not_depend_on_the_measure_is_worked_out_once_a_target(monkeypatch):
    made = []
    real = kernels._Resamples
    monkeypatch.setattr(kernels, "_Resamples", lambda *given: made.append(1) or real(*given))
    monkeypatch.setattr(kernels, "_last", OrderedDict())
    g = np.random.default_rng(0)
    t, other = np.round(g.normal(size=(2, 40)), 1)
    columns = np.round(g.normal(size=(30, 40)), 1)
    found = [kendall_tau(t, s, "b", resamples=200, permutations=0) for s in columns]
    assert len(made) == 1
    kendall_tau(other, columns[0], "b", resamples=200, permutations=0)
    assert len(made) == 2
    monkeypatch.setattr(kernels, "_last", OrderedDict())
    assert kendall_tau(t, columns[-1], "b", resamples=200, permutations=0) == found[-1]
    monkeypatch.setattr(kernels, "COLUMNS", 3)
    for column in columns[:5]:
        kendall_tau(column, t, "b", resamples=200, permutations=0)
    assert len(kernels._last) == 3
    del made[:]
    for column in (columns[4], columns[2], columns[1]):  # the last three, and one that had to go
        kendall_tau(column, t, "b", resamples=200, permutations=0)
    assert len(made) == 1
    counts = np.array(bootstrap_counts(40, 200, 0))
    before = pair_sums(counts, Ranked.of(t), Ranked.of(columns[0]))
    counts[:] = 1  # one that can be written to is not taken for what it was
    assert (pair_sums(counts, Ranked.of(t), Ranked.of(columns[0])) != before).any()


@pytest.mark.parametrize("n", [3, 17, 70])
def test_weighted_sums_are_those_of_all_pairs(n):
    values, counts = columns_with_ties(n), bootstrap_counts(n, 37, 0)
    off = ~np.eye(n, dtype=bool)
    for i, j in itertools.product(range(5), repeat=2):
        x, y = signs(values[i]), signs(values[j])
        m = counts.astype(int)
        expected = [np.einsum("bi,ij,bj->b", m, k, m) // 2 for k in (x * y, off * 1, (x == 0) & off, (y == 0) & off)]
        a, b = Ranked.of(values[i]), Ranked.of(values[j])
        assert (pair_sums(counts, a, b) == np.stack(expected, 1)).all()
        assert (agreements(counts, a, b) == m @ (x * y)).all()
        without = (1 - np.eye(n)).astype(np.uint8)
        assert (sums_without_each(a, b) == pair_sums(without, a, b)).all()


def test_streams_are_the_same_in_pieces(monkeypatch):
    """And fewer rows are the first of many; the numbers are those that earlier versions drew."""
    plain = np.zeros((50, 30), int)
    drawn = np.random.default_rng([5, 30, 1]).integers(30, size=(50, 30))
    np.add.at(plain, (np.arange(50)[:, None], drawn), 1)
    orders = np.random.default_rng([5, 30, 2]).permuted(np.tile(np.arange(30), (50, 1)), axis=1)
    for block, kept in ((10**6, 10**9), (100, 0)):
        monkeypatch.setattr(resampling, "BLOCK", block)
        monkeypatch.setattr(resampling, "KEPT", kept)
        monkeypatch.setattr(resampling, "_kept", resampling._Kept())
        for rows in (20, 50, 20):
            assert (bootstrap_counts(30, rows, 5) == plain[:rows]).all()
            assert (np.concatenate(list(order_blocks(30, rows, 5))) == orders[:rows]).all()


def test_kept_streams_stay_within_their_bytes(monkeypatch):
    monkeypatch.setattr(resampling, "KEPT", 1000)
    kept = resampling._Kept()
    for seed in range(5):
        kept.get("bootstrap", 10, seed, 40, lambda: np.zeros((40, 10), np.uint8))
    assert len(kept._found) == 2


def test_no_torch_is_needed():
    code = "import sys, acutance; acutance.kendall_tau([1, 2, 3], [1, 3, 2]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_max_tau_adjustment_controls_the_family():
    """With one target and one measure it is the plain p-value; with many independent ones it is near Sidak's."""
    g = np.random.default_rng(3)
    t, s = g.normal(size=(1, 15)), g.normal(size=(30, 15))
    single = max_tau_p(t, s[:1])
    assert single[0, 0] == pytest.approx(kendall_tau(t[0], s[0]).p, abs=0.02)
    adjusted = max_tau_p(t, s)
    raw = np.array([kendall_tau(t[0], row).p for row in s])
    assert (adjusted[0] >= raw - 1e-9).all()
    best = raw.argmin()
    assert adjusted[0, best] == pytest.approx(1 - (1 - raw[best]) ** 30, abs=0.12)


def test_max_tau_is_not_inflated_by_copies_of_one_measure():
    g = np.random.default_rng(4)
    t, s = g.normal(size=(1, 15)), g.normal(size=15)
    copies = max_tau_p(t, np.stack([s] * 20))
    assert copies[0, 0] == pytest.approx(kendall_tau(t[0], s).p, abs=0.02)


def test_max_tau_leaves_missing_models_out():
    g = np.random.default_rng(5)
    t, s = g.normal(size=(2, 12)), g.normal(size=(3, 12))
    s[0, :4] = np.nan
    s[1] = np.nan
    p = max_tau_p(t, s)
    assert (
        np.isnan(p[:, 1]).all() and np.isfinite(p[:, [0, 2]]).all() and ((p[:, [0, 2]] > 0) & (p[:, [0, 2]] <= 1)).all()
    )


@pytest.mark.parametrize("n", [7, 12, 50])
@pytest.mark.parametrize("block", [5, 10**6])
def test_the_p_values_of_a_family_are_those_of_its_members(n, block, monkeypatch):
    monkeypatch.setattr("acutance.analysis.adjust.BLOCK", block)
    g = np.random.default_rng(n)
    t, s = g.normal(size=(2, n)), np.round(g.normal(size=(3, n)), 1)
    s[1, :2] = np.nan
    without = np.zeros((2, 3), bool)
    without[0, 2] = True
    plain, adjusted = family_p(t, s, 199, 3, without)
    assert np.array_equal(adjusted, max_tau_p(t, s, 199, 3, without), equal_nan=True)
    for i, j in itertools.product(range(2), range(3)):
        alone = kendall_tau(t[i], s[j], nonfinite="drop", resamples=9, permutations=199, seed=3).p
        assert np.isnan(plain[i, j]) if without[i, j] else plain[i, j] == alone


def test_a_family_without_models_has_no_p_value():
    plain, adjusted = family_p(np.empty((1, 0)), np.empty((2, 0)), 99)
    assert np.isnan(plain).all() and np.isnan(adjusted).all() and plain.shape == (1, 2)


@pytest.mark.skipif(not DATA.exists(), reason="the reference data are not here")
def test_learning_rate_and_error_of_the_published_clip_models():
    lines = (DATA / "model_soups" / "individual_model_results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    hparams = json.loads((DATA / "model_soups" / "hparam_info.json").read_text())

    def rate(name):
        info = hparams.get(name) or hparams.get(name.removesuffix(".pt"))
        return None if info is None else info.get("lr") or info.get("learning_rate")

    named = [(rate(r.get("model_name") or r.get("name")), r) for r in rows]
    found = [(lr, r) for lr, r in named if lr is not None]
    if len(found) != 71:
        pytest.skip(f"{len(found)} models carry a learning rate in this layout")
    for column, expected in (("ImageNetR", 0.67), ("ImageNetSketch", 0.35), ("ImageNetA", 0.42)):
        accuracy = [r[column] for _, r in found]
        tau = kendall_tau([float(lr) for lr, _ in found], [1 - a for a in accuracy], "b").tau
        assert tau == pytest.approx(expected, abs=0.02)
