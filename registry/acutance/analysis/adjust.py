r"""Multiplicity: how large the largest |tau| of a whole table would be without any association."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acutance.analysis.kendall import null_sd, permutation_p
from acutance.analysis.kernels import (
    Signs,
    family_sums,
    goes_through_all,
    largest_permuted,
    p_of_hits,
    permuted_orders,
    signs,
)

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
    x, y, scale, compared = _family(targets, measures, without)
    n = targets.shape[1]
    largest = largest_permuted(permuted_orders(n, permutations, seed), x, y, scale)
    return _adjusted(x, y, scale, compared, largest)


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
    x, y, scale, compared = _family(targets, measures, without)
    n = targets.shape[1]
    orders = permuted_orders(n, permutations, seed)
    observed = np.abs(family_sums(np.arange(n)[None], x, y)[0])
    hits, largest = np.zeros(scale.shape, np.int64), np.empty(len(orders))
    rows = max(1, BLOCK // max(1, scale.size))
    for start in range(0, len(orders), rows):
        sums = np.abs(family_sums(orders[start : start + rows], x, y))
        hits += (sums >= observed).sum(0)
        largest[start : start + rows] = (sums * scale).max((1, 2), initial=0.0)
    plain = p_of_hits(hits, len(orders), goes_through_all(n))
    lacking = np.logical_or.outer(np.isnan(targets).any(axis=1), np.isnan(measures).any(axis=1))
    for t, d in zip(*np.nonzero(compared & lacking), strict=True):
        # A missing model takes part in no permutation.
        both = ~(np.isnan(targets[t]) | np.isnan(measures[d]))
        plain[t, d] = permutation_p(signs(targets[t][both]), signs(measures[d][both]), permutations, seed)
    return np.where(compared, plain, np.nan), _adjusted(x, y, scale, compared, largest)


def _family(
    targets: NDArray[np.float64], measures: NDArray[np.float64], without: NDArray[np.bool_] | None
) -> tuple[Signs, Signs, NDArray[np.float64], NDArray[np.bool_]]:
    """Return signs of targets and measures, the scale of each pair's sums (0: not compared), and which are compared."""
    # Comparisons with NaN are false, so pairs with a missing value have sign 0.
    x = np.stack([signs(row) for row in targets])
    y = np.stack([signs(row) for row in measures])
    if without is None:
        without = np.zeros((len(x), len(y)), bool)
    common = ~np.isnan(targets)[:, None, :] & ~np.isnan(measures)[None, :, :]
    counts = common.sum(2)
    scale = np.array([[1 / (n * (n - 1) / 2 * null_sd(n)) if n > 1 else 0.0 for n in row] for row in counts])
    return x, y, np.where(without, 0.0, scale), (counts > 1) & ~without


def _adjusted(
    x: Signs, y: Signs, scale: NDArray[np.float64], compared: NDArray[np.bool_], largest: NDArray[np.float64]
) -> NDArray[np.float64]:
    n = x.shape[1]
    upper = np.triu_indices(n, 1)
    observed = np.abs(x[:, upper[0], upper[1]].astype(float) @ y[:, upper[0], upper[1]].astype(float).T) * scale
    # Sums that differ in the last bit are the same sum.
    hits = (largest[None, None, :] >= observed[:, :, None] - 1e-9).sum(2)
    p = p_of_hits(hits, len(largest), goes_through_all(n))
    return np.where(compared, p, np.nan)
