r"""Multiplicity: how large the largest |tau| of a whole table would be without any association."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acutance.analysis.kendall import null_sd
from acutance.analysis.kernels import largest_permuted, permuted_orders, signs


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
    n = targets.shape[1]
    # Comparisons with NaN are false, so pairs with a missing value have sign 0.
    x = np.stack([signs(row) for row in targets])
    y = np.stack([signs(row) for row in measures])
    if without is None:
        without = np.zeros((len(x), len(y)), bool)
    common = ~np.isnan(targets)[:, None, :] & ~np.isnan(measures)[None, :, :]
    counts = common.sum(2)
    pairs = counts * (counts - 1) / 2
    scale = np.array([[1 / (n * (n - 1) / 2 * null_sd(n)) if n > 1 else 0.0 for n in row] for row in counts])
    scale = np.where(without, 0.0, scale)
    upper = np.triu_indices(n, 1)
    observed = np.abs(x[:, upper[0], upper[1]].astype(float) @ y[:, upper[0], upper[1]].astype(float).T) * scale
    largest = largest_permuted(permuted_orders(n, permutations, seed), x, y, scale)
    # Sums that differ in the last bit are the same sum.
    hits = (largest[None, None, :] >= observed[:, :, None] - 1e-9).sum(2)
    p = hits / len(largest) if n <= 8 else (1 + hits) / (1 + len(largest))
    return np.where((pairs > 0) & ~without, p, np.nan)
