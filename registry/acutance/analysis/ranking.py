r"""Models ranked by a measure on a sample of points: how far another sample would change the order.

The points are dealt into G groups, the same for all models. A value without one group each gives standard errors of
values and of their differences (the delete-a-group jackknife), from which follows which models are certainly better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from acutance.errors import UserError

Array = NDArray[np.float64]

GROUPS = 20  # of points
LEVEL = 0.05  # chance that any pair of models is put in order wrongly
ROUNDING = 1e-6  # relative difference below which two values are the same
ZERO = 1e-12  # size beside the largest of a measure below which a value is the rounding of 0
LISTED = 5  # names that a sentence holds


def groups_of(n: int, groups: int = GROUPS, seed: int = 0) -> NDArray[np.int64]:
    """Return the group of each of n points, (n,): of nearly equal sizes, dealt at random.

    Raises:
        UserError: for fewer points than groups.
    """
    if n < groups:
        raise UserError(f"{n} points are too few to say how uncertain a ranking is", f"give at least {groups}")
    dealt: NDArray[np.int64] = np.random.default_rng([seed, n, groups]).permutation(np.arange(n) % groups)
    return dealt


def jackknife_errors(without: ArrayLike) -> Array:
    r"""Return the standard error of a statistic from its values without one group each.

    .. math:: \widehat{se}^2 = \sum_b \frac{G-1}{G} \sum_g \big(\theta_{b(g)} - \bar\theta_b\big)^2

    summed over the independent samples b that the statistic is of (Shao and Wu 1989).

    Args:
        without: (B, G, ...), without group g of sample b.

    Returns:
        (...), NaN where one of the values is.
    """
    values = np.asarray(without, np.float64)
    groups = values.shape[1]
    squares = ((values - values.mean(1, keepdims=True)) ** 2).sum(1) * (groups - 1) / groups
    return np.asarray(np.sqrt(squares.sum(0)))


def holm(p: ArrayLike) -> Array:
    r"""Return p-values adjusted for the family-wise error, :math:`\max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})`.

    (Holm 1979), valid whatever the dependence; NaN is no test, and stays NaN.
    """
    values = np.asarray(p, np.float64)
    adjusted, there = np.full(values.shape, np.nan), ~np.isnan(values)
    order = np.argsort(values[there], kind="stable")
    scaled = values[there][order] * np.arange(len(order), 0, -1)
    back = np.empty(len(order))
    back[order] = np.maximum.accumulate(scaled).clip(0, 1)
    adjusted[there] = back
    return adjusted


@dataclass(frozen=True, eq=False)
class Ranks:
    """The places of M models by one measure, 1 the best.

    Attributes:
        stderr: of each value, (M,).
        low: the smallest rank that a model can have, (M,).
        high: the largest.
        better: whether model i is certainly better than model j, (M, M).
    """

    stderr: Array
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    better: NDArray[np.bool_]


def ranks(values: ArrayLike, without: ArrayLike, larger_is_better: bool = False, level: float = LEVEL) -> Ranks:
    r"""Return the ranks that M models can have, all of them right at once with 95% confidence.

    Each pair is compared by :math:`t = d / \widehat{se}(d)` on G - 1 degrees of freedom, with Holm's adjustment over
    all pairs. Model i is certainly better where its adjusted p-value is below the level; its rank lies between one more
    than the number of models that are certainly better and M less those that are certainly worse.

    Args:
        values: (M,).
        without: (B, G, M), values without one group of points each, of B independent samples of points. A model whose
            values are not all numbers is compared with none.
        larger_is_better: which end has rank 1.
        level: family-wise error.
    """
    x, y = np.asarray(values, np.float64), np.asarray(without, np.float64)
    count, groups = len(x), y.shape[1]
    i, j = np.triu_indices(count, 1)
    d, error = x[i] - x[j], jackknife_errors(y[:, :, i] - y[:, :, j])
    # What rounding alone makes is no difference, however surely it is there.
    d = np.where(np.abs(d) <= ROUNDING * np.maximum(np.abs(x[i]), np.abs(x[j])), 0.0, d)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(d == 0, 0.0, np.abs(d) / error)
    p = np.where(np.isnan(error), np.nan, 2 * special.stdtr(groups - 1, -t))
    sure = np.nan_to_num(holm(p), nan=1.0) < level
    first = (d > 0) == larger_is_better
    better = np.zeros((count, count), bool)
    better[i[sure & first], j[sure & first]] = True
    better[j[sure & ~first], i[sure & ~first]] = True
    return Ranks(jackknife_errors(y), 1 + better.sum(0), count - better.sum(1), better)


def mean_ranks(values: ArrayLike, larger_is_better: bool = False) -> Array:
    """Return ranks from 1, the best, ties in the middle of their places; NaN where there is no value."""
    x = np.asarray(values, np.float64) * (-1 if larger_is_better else 1)
    there, found = np.isfinite(x), np.full(len(x), math.nan)
    kept = x[there]
    below, same = ((kept[None] < kept[:, None]).sum(1), (kept[None] == kept[:, None]).sum(1))
    found[there] = below + (same + 1) / 2
    return found


def without_rounding(table: pd.DataFrame) -> pd.Series:
    """Return the values to show, row by row: 0 for one that is rounding beside the largest of its measure."""
    sizes = table["value"].abs().replace(np.inf, np.nan)
    return table["value"].mask(sizes < ZERO * sizes.groupby(table["measure"]).transform("max"), 0.0)


def possibly_best(rows: pd.DataFrame) -> list[str]:
    """Return the models of one measure's rows that can have rank 1 and have a value, best values first."""
    there = rows[(rows["rank_low"] == 1) & np.isfinite(rows["value"])]
    return [str(model) for model in there.sort_values("rank", kind="stable")["model"]]


def conclusive(rows: pd.DataFrame) -> bool:
    """Return whether one model of a measure's rows is certainly better than all others."""
    return bool((rows["rank_high"] == 1).any())


def sentence(rows: pd.DataFrame) -> str:
    """Return which models are possibly the best by a measure, as the end of a sentence that names it.

    Args:
        rows: of the measure: ``model``, ``value``, ``rank``, ``rank_low``, ``rank_high``.
    """
    best, total = possibly_best(rows), len(rows)
    if not best:
        return "no model has a value"
    if conclusive(rows):
        return f"{best[0]} comes first"
    if len(best) == total:
        return f"the first can be any of the {total} models"
    return f"the first is one of {len(best)} of {total}: {listed(best)}"


def overall(table: pd.DataFrame) -> str:
    """Return what all measures say together, where no labelled points say which of them to trust.

    Args:
        table: the rows of all measures.
    """
    parts = [rows for _, rows in table.groupby("measure", sort=False)]
    sure = list(dict.fromkeys(possibly_best(rows)[0] for rows in parts if conclusive(rows)))
    if not sure:
        return "Inconclusive: no measure tells the first model from the second."
    if len(sure) > 1:
        return f"Inconclusive: the measures disagree, {listed(sure)} each come first by some."
    count = sum(map(conclusive, parts))
    by = f"by {count} of {len(parts)} measure{'s' * (len(parts) != 1)}"
    against = [rows for rows in parts if (best := possibly_best(rows)) and sure[0] not in best]
    if against:
        return f"Inconclusive: {sure[0]} comes first {by}, and {len(against)} rule{'s' * (len(against) == 1)} it out."
    return f"{sure[0]} comes first {by}, and none rules it out."


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """Return names in a row, the first few of many."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
