r"""Multiplicity: how large the largest |tau| of a whole table would be without any association."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from acutance.analysis.kendall import null_sd, permutation_p
from acutance.analysis.machinery.kernels import plain_sums
from acutance.analysis.machinery.permuting import family_sums
from acutance.analysis.machinery.ranked import Family, Ranked
from acutance.analysis.machinery.resampling import Orders, goes_through_all, order_blocks, orders_of, p_of_hits

BLOCK = 4_000_000  # sums held at a time


def max_tau_p(
    targets: NDArray[np.float64],
    measures: NDArray[np.float64],
    permutations: int = 9999,
    seed: int = 0,
    without: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    r"""Return adjusted p-values by the max-\|tau\| permutation of Westfall and Young (single step).

    Models' labels are permuted for all targets together, so the dependence between measures, and between
    targets, stays as it is. The family-wise error over the whole table is controlled.

    A pair in which a model lacks a value is left out; taus over different numbers of models are made
    comparable by their standard deviation under independence.

    Args:
        targets: (T, n) values, NaN where missing.
        measures: (D, n) values, NaN where missing.
        permutations: random permutations; all of them when n <= 8.
        seed: names the permutations.
        without: (T, D) pairs that are not compared.

    Returns:
        (T, D) adjusted p-values, NaN where there are fewer than two models, and for pairs that are not compared.
    """
    return _family(targets, measures, permutations, seed, without)[2]


def family_p(
    targets: NDArray[np.float64],
    measures: NDArray[np.float64],
    permutations: int = 9999,
    seed: int = 0,
    without: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return plain and adjusted p-values of a whole table from one pass over the permutations.

    The plain ones are those of ``kendall_tau`` with the same permutations and seed, the adjusted ones those of
    ``max_tau_p``, both to the bit; a table of 384 correlations costs little more than one.

    Args:
        targets: (T, n) values, NaN where missing.
        measures: (D, n) values, NaN where missing.
        permutations: random permutations; all of them when n <= 8.
        seed: names the permutations.
        without: (T, D) pairs that are not compared.

    Returns:
        Two (T, D) tables, NaN where there are fewer than two models, and for pairs that are not compared.
    """
    plain, compared, adjusted = _family(targets, measures, permutations, seed, without)
    lacking = np.logical_or.outer(np.isnan(targets).any(axis=1), np.isnan(measures).any(axis=1))
    for t, d in zip(*np.nonzero(compared & lacking), strict=True):
        # A missing model takes part in no permutation.
        both = ~(np.isnan(targets[t]) | np.isnan(measures[d]))
        x, y = targets[t][both], measures[d][both]
        plain[t, d] = permutation_p(x, y, int(plain_sums(Ranked.of(x), Ranked.of(y))[0]), permutations, seed)
    return np.where(compared, plain, np.nan), adjusted


def _family(
    targets: NDArray[np.float64], measures: NDArray[np.float64], permutations: int, seed: int,
    without: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:  # fmt: skip
    """Return plain p-values, which pairs are compared, and adjusted p-values, from one pass over the permutations."""
    n, x, y = targets.shape[1], Family(targets), Family(measures)
    if without is None:
        without = np.zeros((len(x), len(y)), bool)
    here, there = ~np.isnan(targets), ~np.isnan(measures)
    common = here.astype(np.int64) @ there.astype(np.int64).T
    scale = np.array([[1 / (k * (k - 1) / 2 * null_sd(k)) if k > 1 else 0.0 for k in row] for row in common.tolist()])
    scale, compared = np.where(without, 0.0, scale.reshape(common.shape)), (common > 1) & ~without
    observed = np.abs(family_sums(np.arange(n, dtype=np.int32)[None], x, y)[0])
    # Sums that differ in the last bit are the same sum.
    bar = observed * scale - 1e-9
    hits, exceeded, count = np.zeros(scale.shape, np.int64), np.zeros(scale.shape, np.int64), orders_of(n, permutations)
    for orders in _blocks(n, permutations, seed, scale.size):
        sums = np.abs(family_sums(orders, x, y))
        hits += (sums >= observed).sum(0)
        largest = np.sort((sums * scale).max((1, 2), initial=0.0))
        exceeded += len(largest) - np.searchsorted(largest, bar)
    exact = goes_through_all(n)
    adjusted = np.where(compared, p_of_hits(exceeded, count, exact), np.nan)
    return np.where(compared, p_of_hits(hits, count, exact), np.nan), compared, adjusted


def _blocks(n: int, permutations: int, seed: int, pairs: int) -> Iterator[Orders]:
    rows = max(1, BLOCK // max(1, pairs))
    for orders in order_blocks(n, permutations, seed):
        for start in range(0, len(orders), rows):
            yield orders[start : start + rows]
