"""Tau within and between groups: the identity, brute force, and permutations that keep the groups."""

import itertools
import math

import numpy as np
import pytest

from acutance import UserError, kendall_tau
from acutance.analysis.decompose import decompose, stratified_tau


def pairs_of(t, s, g, inside):
    return [
        np.sign(t[i] - t[j]) * np.sign(s[i] - s[j])
        for i, j in itertools.combinations(range(len(t)), 2)
        if (g[i] == g[j]) == inside
    ]


@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("n", [5, 17, 40])
def test_the_parts_are_brute_force_and_add_up(n, levels):
    rng = np.random.default_rng(n)
    t, s, g = (
        rng.integers(levels, size=n).astype(float),
        rng.integers(levels, size=n).astype(float),
        rng.integers(4, size=n),
    )
    found = decompose(t, s, g)
    within, between = pairs_of(t, s, g, True), pairs_of(t, s, g, False)
    assert (found.pairs_within, found.pairs_between) == (len(within), len(between))
    assert found.within == pytest.approx(np.mean(within)) and found.between == pytest.approx(np.mean(between))
    assert found.tau == kendall_tau(t, s, resamples=9, permutations=9).tau
    total = found.pairs_within + found.pairs_between
    assert (found.pairs_within * found.within + found.pairs_between * found.between) / total == pytest.approx(
        found.tau, abs=1e-15
    )


def test_simpsons_paradox_is_flagged():
    t = np.array([0, 1, 2, 10, 11, 12.0])
    s = np.array([12, 11, 10, 22, 21, 20.0])
    found = decompose(t, s, list("aaabbb"))
    assert (found.within, found.between, found.simpson) == (-1.0, 1.0, True)
    assert found.tau == pytest.approx((9 - 6) / 15)
    assert not decompose(t, t, list("aaabbb")).simpson
    assert not decompose(t, s, range(6)).simpson


def test_one_group_is_the_plain_tau():
    rng = np.random.default_rng(0)
    t, s = rng.normal(size=(2, 25))
    plain = kendall_tau(t, s, resamples=3999, permutations=3999)
    found = stratified_tau(t, s, ["a"] * 25, resamples=3999, permutations=3999)
    assert found.tau == plain.tau and found.n == 25 and found.groups == 1
    assert found.p == pytest.approx(plain.p, abs=0.04)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.03), pytest.approx(plain.high, abs=0.03))


def test_few_models_have_the_exact_p_value_of_all_orders_inside_groups():
    rng = np.random.default_rng(4)
    t, s = rng.normal(size=(2, 8))
    groups = np.array(["b", "a", "a", "b", "b", "a", "c", "c"])
    members = [np.flatnonzero(groups == k) for k in "abc"]
    observed, hits, count = abs(sum(pairs_of(t, s, groups, True))), 0, 0
    for parts in itertools.product(*(itertools.permutations(m) for m in members)):
        moved = t.copy()
        for group, part in zip(members, parts):
            moved[group] = t[list(part)]
        hits += abs(sum(pairs_of(moved, s, groups, True))) >= observed
        count += 1
    found = stratified_tau(t, s, groups, resamples=99)
    assert found.tau == pytest.approx(sum(pairs_of(t, s, groups, True)) / 7)
    assert count == 72 and found.p == pytest.approx(hits / count)


def test_what_only_differs_between_groups_does_not_enter():
    rng = np.random.default_rng(5)
    t, s, g = rng.normal(size=40), rng.normal(size=40), np.repeat(range(4), 10)
    shift = np.array([0, 100, 50, 7.0])[g]
    one, two = (stratified_tau(t + k * shift, s + k * shift, g, resamples=199, permutations=199) for k in (0, 1))
    assert (one.tau, one.p) == (two.tau, two.p)
    assert kendall_tau(t + shift, s + shift, resamples=9, permutations=9).tau > 0.6


def test_p_is_uniform_under_the_null_though_groups_differ():
    rng = np.random.default_rng(6)
    g = np.repeat(range(5), 8)
    p = [
        stratified_tau(*(rng.normal(size=(2, 40)) + 3 * g), g, resamples=9, permutations=199, seed=seed).p
        for seed in range(400)
    ]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.045)
    # A sum as large as the observed one counts, so the mean is a little above a half.
    assert np.mean(p) == pytest.approx(0.53, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "size", "most"), [(2, 40, 0.97), (4, 15, 0.985)])
def test_the_interval_covers_and_is_wider_than_need_be_for_small_groups(groups, size, most):
    rng, hits, g, tau = np.random.default_rng(7), 0, np.repeat(range(groups), size), 0.5
    rho = math.sin(math.pi / 2 * tau)
    for _ in range(2000):
        t = rng.normal(size=len(g))
        s = rho * t + math.sqrt(1 - rho**2) * rng.normal(size=len(g))
        found = stratified_tau(t + 2 * g, s - g, g, resamples=999, permutations=9)
        hits += found.low <= tau <= found.high
    assert 0.93 <= hits / 2000 <= most


def test_degenerate_groups():
    t, s = [1, 2, 3, 4.0], [2, 1, 4, 3.0]
    alone = stratified_tau(t, s, range(4))
    assert math.isnan(alone.tau) and "no group has two" in alone.note and "4 models are alone" in alone.note
    assert math.isnan(decompose(t, s, range(4)).within)
    tied = stratified_tau([1, 1, 2, 2], s, [0, 0, 1, 1])
    assert tied.tau == 0 and tied.p == 1 and "tied" in tied.note
    perfect = stratified_tau([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 1, 1], resamples=199)
    assert perfect.tau == 1 and perfect.p == 0.5 and perfect.low < -0.5 and "largest group" in perfect.note
    long = stratified_tau(np.arange(20), -np.arange(20), [0] * 12 + [1] * 8, resamples=199, permutations=99)
    assert long.low == -1 and -0.95 < long.high < -0.7
    empty = decompose([], [], [])
    assert math.isnan(empty.tau) and "fewer than 3" in empty.note
    lacking = decompose([1, np.nan, 3, 4], s, [0, 0, 1, 1])
    assert lacking.n == 3 and "1 models have no value" in lacking.note
    with pytest.raises(UserError, match="one label a model"):
        decompose(t, s, [1, 2])
