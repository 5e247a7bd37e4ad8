r"""Measures against each other: which definitions rank models alike, and an order that shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from acutance.analysis.machinery.columns import MIN_MODELS
from acutance.analysis.machinery.kernels import plain_sums
from acutance.analysis.machinery.ranked import Ranked
from acutance.errors import UserError

DENSE = 1000  # models up to which all pairs are compared at once, for all definitions together
BLOCK = 10_000_000  # signs held at a time
ORDERED = 300  # leaves whose branches are turned so that neighbours are near
THRESHOLD = 0.7  # mean tau from which definitions are in one cluster


@dataclass(frozen=True)
class Matrix:
    """Correlations between definitions.

    Attributes:
        tau: tau-b of every pair, (D, D); NaN where a definition is constant or fewer than three models have both.
        n: models that have both, (D, D).
        order: definitions so that similar ones are neighbours.
        clusters: definition -> number of its cluster, from 1, in that order.
    """

    tau: pd.DataFrame
    n: pd.DataFrame
    order: list[str]
    clusters: dict[str, int]


def matrix(values: pd.DataFrame, *, threshold: float = THRESHOLD, signed: bool = True) -> Matrix:
    r"""Return tau-b between all definitions, pairwise on the models that have both, and their clusters.

    .. math:: \tau_b = \frac{\sum_{i<j} sign(a_i - a_j)\, sign(b_i - b_j)}
              {\sqrt{\#\{a_i \ne a_j\}\, \#\{b_i \ne b_j\}}}

    Clusters come from average linkage on the distance 1 - tau; leaves are ordered so that neighbours are near
    (Bar-Joseph et al. 2001). A pair without a tau is as far apart as an unrelated one. Definitions of one cluster say
    nearly the same about these models: that many of them correlate with a target is one finding.

    Args:
        values: one column a definition, one row a model; NaN is missing.
        threshold: definitions are in one cluster while their mean tau is at least this.
        signed: False takes 1 - \|tau\|, so that a measure and its negative are near.

    Raises:
        UserError: for two columns of one name, no columns, or a threshold outside (-1, 1).
    """
    names = [str(c) for c in values.columns]
    if not names or len(set(names)) != len(names):
        raise UserError("values: needs at least one column, each with a name of its own")
    if not -1 < threshold < 1:
        raise UserError(f"threshold: must be between -1 and 1, got {threshold}")
    table = values.to_numpy(np.float64).T
    there = ~np.isnan(table)
    n = there.astype(np.int64) @ there.astype(np.int64).T
    tau = np.where(n >= MIN_MODELS, _tau_b(table, there), np.nan)
    distance = 1 - np.nan_to_num(tau if signed else np.abs(tau))
    np.fill_diagonal(distance, 0)
    order, clusters = _clustered(np.maximum(distance, 0), 1 - threshold)
    return Matrix(
        pd.DataFrame(tau, names, names),
        pd.DataFrame(n, names, names),
        [names[i] for i in order],
        {names[i]: clusters[i] for i in order},
    )


def order_of(distance: NDArray[np.float64]) -> list[int]:
    """Return the order of the leaves of average linkage, so that near ones are neighbours.

    Args:
        distance: (M, M) symmetric, not negative, 0 on the diagonal.
    """
    if len(distance) < 3:
        return list(range(len(distance)))
    # The best order of the branches takes time with the square and more: of very many any order of them will do.
    return [int(i) for i in leaves_list(_linked(distance, turned=len(distance) <= ORDERED))]


def _linked(distance: NDArray[np.float64], turned: bool = True) -> NDArray[np.float64]:
    """Return the tree of average linkage; turned, its branches lie so that neighbouring leaves are near."""
    condensed = squareform((distance + distance.T) / 2, checks=False)
    tree: NDArray[np.float64] = linkage(condensed, "average")
    return optimal_leaf_ordering(tree, condensed) if turned else tree


def _tau_b(table: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return tau-b of all pairs of rows; a pair of models counts where both rows have both models."""
    definitions, n = table.shape
    if n > DENSE:
        return _counted(table, there)
    agree = free = np.zeros((definitions, definitions))
    upper = np.triu_indices(n, 1)
    step = max(1, BLOCK // definitions)
    for start in range(0, len(upper[0]), step):
        i, j = (index[start : start + step] for index in upper)
        # Comparisons with NaN are false, so pairs with a missing value have sign 0.
        s = (table[:, i] > table[:, j]).astype(np.float32) - (table[:, i] < table[:, j])
        present, untied = (there[:, i] & there[:, j]).astype(np.float32), (s != 0).astype(np.float32)
        # Sums of signs are whole numbers far below 2^24: exact in float32.
        agree, free = agree + s @ s.T, free + untied @ present.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(agree / np.sqrt(free * free.T))


def _counted(table: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the same in n log n for each pair of rows."""
    tau_b = np.full((len(table), len(table)), np.nan)
    for a, b in combinations_with_replacement(range(len(table)), 2):
        both = there[a] & there[b]
        if both.any():
            s, pairs, tied_a, tied_b = plain_sums(Ranked.of(table[a][both]), Ranked.of(table[b][both])).tolist()
            scale = math.sqrt((pairs - tied_a) * (pairs - tied_b))
            tau_b[a, b] = tau_b[b, a] = s / scale if scale else math.nan
    return tau_b


def _clustered(distance: NDArray[np.float64], cut: float) -> tuple[list[int], list[int]]:
    """Return the order of the leaves, and each one's cluster, numbered along that order."""
    if len(distance) == 1:
        return [0], [1]
    tree = _linked(distance)
    order = [int(i) for i in leaves_list(tree)]
    cluster_of = fcluster(tree, cut + 1e-12, "distance")
    number: dict[int, int] = {}
    for i in order:
        number.setdefault(int(cluster_of[i]), len(number) + 1)
    return order, [number[int(c)] for c in cluster_of]
