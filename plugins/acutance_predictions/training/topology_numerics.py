"""What a matrix of distances says of the shape of its points: lengths of components, and magnitude."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import lapack

from acutance.errors import Unsupported

EXACT = 1e-6  # relative error of the weights that rounding may make


def spanning_tree(table: np.ndarray) -> list[float]:
    """Return the lengths of the edges of a minimum spanning tree, n - 1 of them, zeros too, by Prim's algorithm.

    They are the lifetimes of the 0-dimensional persistent homology of the Vietoris-Rips filtration: at the length of
    an edge of the tree two components become one.

    Args:
        table: (n, n) distances, finite.
    """
    nearest, outside = table[0].copy(), np.ones(len(table), dtype=bool)
    outside[0] = False
    lengths = []
    for _ in range(len(table) - 1):
        j = int(np.where(outside, nearest, np.inf).argmin())
        lengths.append(float(nearest[j]))
        outside[j] = False
        np.minimum(nearest, table[j], out=nearest)
    return lengths


def lifetimes(table: np.ndarray, alpha: float) -> float:
    r"""Return :math:`\sum_e \ell_e^\alpha` over the edges of a minimum spanning tree, whichever it is."""
    with np.errstate(over="ignore"):
        powers = np.power(spanning_tree(table), alpha)
        return float(np.sort(powers).sum())


def weighting(table: np.ndarray, scale: float) -> np.ndarray:
    r"""Return :math:`\beta` with :math:`\sum_j e^{-s d_{ij}} \beta_j = 1`, (k,), of the k points that differ.

    With :math:`M_{ij} = 1 - e^{-s d_{ij}}` and :math:`x = M^{-1} 1` it is :math:`x / (1^\top x - 1)`, which stays exact
    where the scale is so small that all entries of the kernel are nearly 1.

    Args:
        table: (n, n) distances, finite; points at distance 0 count once.
        scale: s.

    Raises:
        Unsupported: where some points are so much closer to each other than to the rest that rounding would show.
    """
    kept: list[int] = []
    for i in range(len(table)):
        if all(table[i, j] > 0 for j in kept):
            kept.append(i)
    if len(kept) == 1:
        return np.ones(1)
    m = -np.expm1(-scale * table[np.ix_(kept, kept)])
    factors, pivots, singular = lapack.dgetrf(m)
    condition = lapack.dgecon(factors, np.abs(m).sum(0).max())[0] if not singular else 0.0
    if condition * EXACT < np.finfo(float).eps:
        raise Unsupported(
            "some of these checkpoints are so close to each other that the weights of the points are lost in rounding: "
            "compare checkpoints farther apart in training"
        )
    x = lapack.dgetrs(factors, pivots, np.ones(len(kept)))[0]
    found: np.ndarray = x / (math.fsum(x) - 1)
    return found
