r"""How far a measure that is estimated agrees with itself, and how much its noise moves a correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from acutance.analysis.association import association
from acutance.analysis.machinery.columns import MIN_MODELS, Array, joined
from acutance.errors import UserError


@dataclass(frozen=True)
class Reliability:
    """Agreement of replicates.

    Attributes:
        icc: intraclass correlation of single replicates; near 1 the measure's noise does not matter, 0 is all noise.
        icc_mean: that of the mean over replicates, which is what is correlated.
        lowest: smallest tau-a that one replicate alone would have shown.
        highest: largest.
        n: models that have a target and at least two finite replicates.
        replicates: the largest number of replicates of a model.
        note: what a reader should know.
    """

    icc: float
    icc_mean: float
    lowest: float
    highest: float
    n: int
    replicates: int
    note: str = ""


def reliability(t: ArrayLike, replicates: ArrayLike) -> Reliability:
    r"""Return the intraclass correlation of a measure, and the range of tau over its replicates.

    The intraclass correlation is that of a one-way analysis of variance (Shrout and Fleiss 1979, ICC(1,1), and
    ICC(1,k) for the mean),

    .. math:: ICC = \frac{MS_b - MS_w}{MS_b + (k_0 - 1) MS_w}, \quad
              k_0 = \frac{1}{M - 1} \left(N - \frac{\sum_i k_i^2}{N}\right)

    with :math:`k_i` replicates of model i, N in all; it may be negative.

    The interval of tau over models needs no second stage for the replicates: every model brings its noise with it
    when it is drawn. Drawing replicates too counts the noise twice and shrinks tau (in simulations with 50 models the
    interval of such a bootstrap holds the truth in 80 to 95% of cases, that over models in 94 to 98%).

    Args:
        t: target values, (M,); NaN is missing.
        replicates: values of the measure, (M, R); NaN and infinities are missing replicates.

    Raises:
        UserError: when the shapes do not fit.
    """
    x, values = np.asarray(t, np.float64), np.asarray(replicates, np.float64)
    if values.ndim != 2 or x.shape != values.shape[:1]:
        raise UserError(f"replicates: must be (models, replicates), got shape {values.shape} for {x.shape} targets")
    there = np.isfinite(values)
    keep = ~np.isnan(x) & (there.sum(1) >= 2)
    dropped = int((~keep).sum())
    note = f"{dropped} models have no target, or fewer than two finite replicates" if dropped else ""
    x, values = x[keep], np.where(there, values, np.nan)[keep]
    n, most = len(x), int(there[keep].sum(1).max(initial=0))
    if n < MIN_MODELS:
        nan = math.nan
        return Reliability(nan, nan, nan, nan, n, most, joined(note, f"fewer than {MIN_MODELS} models"))
    taus = [association(x, column, resamples=0, permutations=0).value for column in values.T]
    finite = [tau for tau in taus if math.isfinite(tau)] or [math.nan]
    return Reliability(*_icc(values), min(finite), max(finite), n, most, note)


def _icc(values: Array) -> tuple[float, float]:
    """Return ICC(1,1) and ICC(1,k) of values, (M, R), NaN where a replicate is missing."""
    counts = (~np.isnan(values)).sum(1)
    total, models = int(counts.sum()), len(values)
    means, grand = np.nanmean(values, axis=1), float(np.nanmean(values))
    between = float((counts * (means - grand) ** 2).sum()) / (models - 1)
    inside = float(np.nansum((values - means[:, None]) ** 2)) / (total - models)
    k = (total - float((counts**2).sum()) / total) / (models - 1)
    if between == 0:
        return math.nan, math.nan
    return (between - inside) / (between + (k - 1) * inside), (between - inside) / between
