r"""Kendall's tau within and between groups of models: where a pooled correlation comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations as all_orders
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acutance.analysis.kendall import tied_pairs
from acutance.analysis.machinery.columns import MIN_MODELS, Array, codes, complete, joined
from acutance.analysis.machinery.intervals import bca
from acutance.analysis.machinery.kernels import pair_sums, plain_sums, sums_without_each
from acutance.analysis.machinery.perfect import perfect_bound
from acutance.analysis.machinery.permuting import permuted_sums
from acutance.analysis.machinery.ranked import Family, Ranked, within
from acutance.analysis.machinery.resampling import Counts, Orders, p_of_hits, pieces, tally
from acutance.errors import UserError

EXACT = math.factorial(8)  # so many orders within groups are all gone through


@dataclass(frozen=True)
class Decomposition:
    r"""Tau-a split over pairs of one group and pairs of two.

    .. math:: \tau = \frac{N_w \tau_w + N_b \tau_b}{N_w + N_b}

    Attributes:
        tau: over all pairs.
        within: over pairs inside a group, tau_w; NaN when there are none.
        between: over pairs of two groups, tau_b; NaN when there are none.
        pairs_within: N_w.
        pairs_between: N_b.
        n: models.
        groups: groups with at least one model.
        simpson: tau and tau_w have opposite signs, so grouping turns the conclusion round.
        note: what was left out.
    """

    tau: float
    within: float
    between: float
    pairs_within: int
    pairs_between: int
    n: int
    groups: int
    simpson: bool
    note: str = ""


@dataclass(frozen=True)
class Stratified:
    """Tau over the pairs inside groups, with its uncertainty.

    Attributes:
        tau: sum of sign products inside groups over the number of such pairs; NaN when there are none.
        low: lower end of the BCa interval; models are resampled inside their groups.
        high: upper end.
        p: two-sided, models permuted inside their groups; exact when there are at most 8! such orders.
        n: models in groups of two and more.
        groups: such groups.
        note: what a reader should know.
    """

    tau: float
    low: float
    high: float
    p: float
    n: int
    groups: int
    note: str = ""


def decompose(t: ArrayLike, s: ArrayLike, groups: ArrayLike) -> Decomposition:
    """Return tau-a of two columns and its exact parts within and between groups.

    Args:
        t: target values, (M,); a model with NaN is left out.
        s: values of a measure, (M,).
        groups: labels of the groups, (M,).

    Raises:
        UserError: for columns that are not numbers or of different lengths.
    """
    x, y, g, note = _columns(t, s, groups)
    n = len(x)
    pairs = n * (n - 1) // 2
    pairs_within = _pairs_within(np.bincount(g, minlength=1))
    pairs_between = pairs - pairs_within
    total = int(plain_sums(Ranked.of(x), Ranked.of(y))[0]) if n else 0
    inside = int(plain_sums(within(g, x), within(g, y))[0]) - pairs_between if n else 0
    sums = inside, total - inside
    tau_within, between, tau = (
        _ratio(a, b) for a, b in zip((*sums, total), (pairs_within, pairs_between, pairs), strict=True)
    )
    simpson = tau * tau_within < 0
    reason = f"fewer than {MIN_MODELS} models" if n < MIN_MODELS else "" if pairs_within else "no group has two models"
    return Decomposition(
        tau, tau_within, between, pairs_within, pairs_between, n, len(np.unique(g)), simpson, joined(note, reason)
    )


def stratified_tau(
    t: ArrayLike,
    s: ArrayLike,
    groups: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    permutations: int = 9999,
    seed: int = 0,
) -> Stratified:
    r"""Return tau-a over pairs of models of one group.

    .. math:: \tau_w = \frac{\sum_g S_g}{\sum_g n_g (n_g - 1) / 2}

    What differs between groups only (an augmentation that changes error and sharpness alike) does not enter.
    Large groups weigh as much as they have pairs. The interval is wider than it need be for small groups
    (simulated coverage of 95%: 98% for four groups of 15).

    Args:
        t: target values, (M,); a model with NaN is left out.
        s: values of a measure, (M,).
        groups: labels of the groups, (M,).
        confidence: level of the interval.
        resamples: bootstrap resamples, of the models of each group.
        permutations: random permutations inside groups, unless all of them are few; 0 for none, p is NaN.
        seed: names resamples and permutations.

    Raises:
        UserError: for columns that are not numbers or of different lengths.
    """
    return stratified_at_levels(t, s, groups, [confidence], resamples, permutations, seed)[0]


def stratified_at_levels(
    t: ArrayLike, s: ArrayLike, groups: ArrayLike, levels: Sequence[float], resamples: int, permutations: int, seed: int
) -> list[Stratified]:
    """Return ``stratified_tau`` with its interval at several levels, from one bootstrap."""
    x, y, g, note = _columns(t, s, groups)
    sizes = np.bincount(g, minlength=1)
    several = sizes[g] >= 2
    x, y, g = x[several], y[several], np.unique(g[several], return_inverse=True)[1].reshape(-1)
    n, members = len(x), [np.flatnonzero(g == k) for k in range(int(g.max()) + 1 if len(g) else 0)]
    alone = int((~several).sum())
    note = joined(note, f"{alone} models are alone in their group" if alone else "")
    nan = math.nan
    if n < MIN_MODELS:
        reason = "no group has two models" if n == 0 else f"fewer than {MIN_MODELS} models"
        return [Stratified(nan, nan, nan, nan, n, len(members), joined(note, reason))] * len(levels)
    # Pairs of two groups agree in both columns, which is taken off again.
    a, b = within(g, x), within(g, y)
    plain = plain_sums(a, b)
    pairs = _pairs_within(sizes)
    observed = int(plain[0]) - (int(plain[1]) - pairs)
    tau = observed / pairs
    if tied_pairs(a, b) == pairs:
        tied_note = joined(note, "all pairs inside groups are tied")
        return [Stratified(tau, nan, nan, 1.0, n, len(members), tied_note)] * len(levels)
    p = _p_within(members, a, b, observed, permutations, seed) if permutations else nan
    if abs(tau) > 1 - 1e-12:
        # A smaller group has a weaker bound, so the largest alone is a valid one for a tau they share.
        largest = max(len(group) for group in members)
        bounds = [perfect_bound(largest, (1 - level) / 2, resamples, seed) for level in levels]
        ends = [(bound, 1.0) if tau > 0 else (-1.0, -bound) for bound in bounds]
        reason = "all pairs inside groups agree: the interval is that of the largest group, exact for normal scores"
    else:
        ends, reason = _ends(tau, a, b, members, levels, resamples, seed)
    return [Stratified(tau, low, high, p, n, len(members), joined(note, reason)) for low, high in ends]


def _ends(
    tau: float, x: Ranked, y: Ranked, members: list[NDArray[np.int64]], levels: Sequence[float], resamples: int,
    seed: int,
) -> tuple[list[tuple[float, float]], str]:  # fmt: skip
    """Return the BCa interval at each level, models resampled inside their groups."""
    n = len(x.codes)
    counts = _resamples(members, n, resamples, seed)
    resampled = _taus(pair_sums(counts, x, y, ties=False), _drawn_pairs(counts, members))
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < 0.9 * resamples:
        return [(math.nan, math.nan)] * len(levels), "too many resamples leave no pair to compare"
    sizes = np.empty(n, np.int64)
    for group in members:
        sizes[group] = len(group)
    pairs = _pairs_within(np.array([len(group) for group in members]))
    without = _taus(sums_without_each(x, y), pairs - (sizes - 1))
    return [bca(tau, resampled, without, level, resamples) for level in levels], ""


def _p_within(
    members: list[NDArray[np.int64]], x: Ranked, y: Ranked, observed: int, permutations: int, seed: int
) -> float:
    """Return the two-sided p-value of models permuted inside their groups."""
    orders, exact = _orders(members, len(x.codes), permutations, seed)
    between = len(x.codes) * (len(x.codes) - 1) // 2 - _pairs_within(np.array([len(group) for group in members]))
    moved, still = (Family(column.codes[None].astype(np.float64)) for column in (x, y))
    hits = int((np.abs(permuted_sums(orders, moved, still) - between) >= abs(observed)).sum())
    return float(p_of_hits(hits, len(orders), exact))


def _columns(t: ArrayLike, s: ArrayLike, groups: ArrayLike) -> tuple[Array, Array, NDArray[np.int64], str]:
    (x, y), keep, note = complete(t, s)
    labels = np.asarray(groups, dtype=object)
    if labels.shape != keep.shape:
        raise UserError(f"groups: must have one label a model, got shape {labels.shape} for {len(keep)} models")
    return x, y, codes(labels[keep]), note


def _ratio(total: int, pairs: int) -> float:
    return total / pairs if pairs else math.nan


def _pairs_within(sizes: NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _drawn_pairs(counts: Counts, members: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the pairs of different models inside groups for each row of multiplicities, (B,)."""
    pairs = np.zeros(len(counts), np.int64)
    for group in members:
        m = counts[:, group].astype(np.int64)
        pairs += (m.sum(1) ** 2 - (m**2).sum(1)) // 2
    return pairs


def _taus(sums: NDArray[np.int64], pairs: NDArray[np.int64]) -> Array:
    """Return tau inside groups of sums over all pairs, those of two groups counted as agreeing, (B,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums[:, 0] - (sums[:, 1] - pairs)) / pairs)


def _resamples(members: list[NDArray[np.int64]], n: int, resamples: int, seed: int) -> Counts:
    """Return how often each model is drawn when every group keeps its size, (B, n)."""
    g = np.random.default_rng([seed, n, 4])
    counts = np.zeros((resamples, n), np.uint8)
    for group in members:
        at = 0
        for rows in pieces(resamples, len(group)):
            drawn = g.integers(len(group), size=(rows, len(group)))
            counts[at : at + rows, group] = tally(drawn, len(group))
            at += rows
    return counts


def _orders(members: list[NDArray[np.int64]], n: int, permutations: int, seed: int) -> tuple[Orders, bool]:
    """Return orders of the models that keep the groups, (B, n), and whether these are all there are."""
    if math.prod(math.factorial(len(group)) for group in members) <= EXACT:
        every = list(product(*(all_orders(group) for group in members)))
        orders = np.empty((len(every), n), np.int32)
        for row, parts in zip(orders, every, strict=True):
            for group, part in zip(members, parts, strict=True):
                row[group] = part
        return orders, True
    g = np.random.default_rng([seed, n, 5])
    orders = np.empty((permutations, n), np.int32)
    for group in members:
        orders[:, group] = g.permuted(np.tile(group, (permutations, 1)), axis=1)
    return orders, False
