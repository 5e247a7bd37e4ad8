r"""One entry to the rank correlations: Kendall's tau-a, b, c, Spearman's rho and a top-weighted tau.

Intervals resample models. A model drawn twice is not compared with itself: its copies are neither an agreement nor
a tie. For Spearman and the weighted tau this needs no care, since copies of a model enter numerator and
denominator with sign 0; a perfect ranking stays 1 in every resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from acutance.analysis.columns import MIN_MODELS, Array, Infinite, complete, constant, joined
from acutance.analysis.intervals import bca, jackknife
from acutance.analysis.kendall import Variant, kendall_tau, tau_without_each
from acutance.analysis.kernels import (
    Ints,
    Signs,
    bootstrap_counts,
    goes_through_all,
    p_of_hits,
    permuted_orders,
    signs,
)
from acutance.analysis.perfect import perfect_bound
from acutance.errors import UserError, did_you_mean

Method = Literal["tau_a", "tau_b", "tau_c", "spearman", "weighted"]
METHODS: tuple[Method, ...] = ("tau_a", "tau_b", "tau_c", "spearman", "weighted")
Interval = Literal["bca", "jackknife"]


@dataclass(frozen=True)
class Association:
    """A rank correlation with its uncertainty.

    Attributes:
        method: which coefficient.
        value: the coefficient; NaN when it is not defined, ``note`` says why.
        low: lower end of the interval; NaN when there is none.
        high: upper end.
        p: two-sided permutation p-value of "no association".
        n: models compared.
        ties: pairs tied in t or in s.
        note: what a reader should know of this number; empty mostly.
    """

    method: Method
    value: float
    low: float
    high: float
    p: float
    n: int
    ties: int
    note: str = ""


def association(
    t: ArrayLike,
    s: ArrayLike,
    method: Method = "tau_a",
    *,
    interval: Interval = "bca",
    infinite: Infinite = "rank",
    confidence: float = 0.95,
    resamples: int = 9999,
    permutations: int = 9999,
    seed: int = 0,
) -> Association:
    r"""Return a rank correlation of two columns over models, with interval and permutation p-value.

    ``tau_a`` (the paper's Eq. 4), ``tau_b`` and ``tau_c`` are those of :func:`kendall_tau`. ``spearman`` is
    Pearson's correlation of mid-ranks. ``weighted`` is Vigna's (2015) hyperbolic tau,

    .. math:: \tau_w = \frac{\sum_{i<j} w_{ij}\, sign(t_i - t_j)\, sign(s_i - s_j)}
              {\sqrt{\sum w_{ij} [t_i \ne t_j] \sum w_{ij} [s_i \ne s_j]}},
              \quad w_{ij} = \frac{1}{1 + r_i} + \frac{1}{1 + r_j},

    with r counted from 0 at the *lowest* value (the best model, the flattest minimum), once by t and once by s;
    the two are averaged. It is ``scipy.stats.weightedtau(-t, -s)``.

    Args:
        t: target values, (M,); NaN is missing.
        s: values of a measure, (M,).
        method: tau_a, tau_b, tau_c, spearman or weighted.
        interval: ``bca`` bootstrap, or ``jackknife`` with the normal quantile.
        infinite: policy for infinite values.
        confidence: level of the interval.
        resamples: bootstrap resamples of models; 0 for no interval.
        permutations: random permutations for p; all of them when there are at most 8 models; 0 for none, p is NaN.
        seed: names resamples and permutations.

    Raises:
        UserError: for an unknown method or interval, and for columns that are not two vectors of numbers.
    """
    if method not in METHODS:
        raise UserError(f"method: '{method}' is not known", did_you_mean(str(method), list(METHODS)))
    if interval not in ("bca", "jackknife"):
        raise UserError(f"interval: '{interval}' is not known", "choose bca or jackknife")
    if not 0 < confidence < 1:
        raise UserError(f"confidence: must be between 0 and 1, got {confidence}")
    (x, y), _, note = complete(t, s, infinite=infinite)
    n = len(x)
    ties = int(((signs(x) == 0) | (signs(y) == 0))[np.triu_indices(n, 1)].sum())
    reason = _undefined(x, y)
    if reason:
        # A constant column agrees with nothing: tau-a counts its ties as 0, the others divide by nothing.
        value = 0.0 if method == "tau_a" and n >= MIN_MODELS else math.nan
        return Association(method, value, math.nan, math.nan, math.nan, n, ties, joined(note, reason))
    if method.startswith("tau_"):
        variant, at_once = cast(Variant, method[-1]), interval == "jackknife" and n >= 4
        settings: dict[str, Any] = {"nonfinite": "rank_max", "confidence": confidence, "seed": seed}
        found = kendall_tau(
            x, y, variant, resamples=0 if at_once else resamples, permutations=permutations, **settings
        )  # fmt: skip
        low, high = found.low, found.high
        if at_once and resamples and _perfect(found.tau):
            bound = kendall_tau(x, y, variant, resamples=resamples, permutations=0, **settings)
            low, high, found = bound.low, bound.high, replace(found, note=bound.note)
        elif at_once and resamples:
            low, high = jackknife(found.tau, tau_without_each(x, y, variant), confidence)
        # Infinities are told by ``complete`` already.
        told = "" if "infinite" in found.note and "ranked" in found.note else found.note
        return Association(method, found.tau, low, high, found.p, n, ties, joined(note, told))
    of_counts, of_orders = (_spearman if method == "spearman" else _weighted)(x, y)
    value = float(of_counts(np.ones((1, n), np.int64))[0])
    p = math.nan
    if permutations:
        orders = permuted_orders(n, permutations, seed)
        hits = int((np.abs(of_orders(orders)) >= abs(value) - 1e-12).sum())
        p = p_of_hits(hits, len(orders), goes_through_all(n))
    if not resamples:
        return Association(method, value, math.nan, math.nan, p, n, ties, note)
    low, high, why = _interval(value, n, method, of_counts, interval, confidence, resamples, seed)
    return Association(method, value, low, high, p, n, ties, joined(note, why))


def _undefined(x: Array, y: Array) -> str:
    if len(x) < MIN_MODELS:
        return f"fewer than {MIN_MODELS} models"
    return "all models have the same value" if constant(x) or constant(y) else ""


def _perfect(value: float) -> bool:
    return abs(value) > 1 - 1e-12


def _interval(
    value: float, n: int, method: Method, of_counts: Callable[[Ints], Array], interval: Interval, confidence: float,
    resamples: int, seed: int,
) -> tuple[float, float, str]:  # fmt: skip
    if n < 4:
        return math.nan, math.nan, "an interval needs at least 4 models"
    if _perfect(value):
        if method == "weighted":
            return math.nan, math.nan, "all pairs agree: no interval"
        rho = math.sin(math.pi / 2 * perfect_bound(n, (1 - confidence) / 2, resamples, seed))
        bound = 6 / math.pi * math.asin(rho / 2)
        return (
            *((bound, 1.0) if value > 0 else (-1.0, -bound)),
            "all pairs agree: the interval is exact for normal scores",
        )
    leave_one_out = of_counts(1 - np.eye(n, dtype=np.int64))
    if interval == "jackknife":
        return (*jackknife(value, leave_one_out, confidence), "")
    resampled = of_counts(bootstrap_counts(n, resamples, seed))
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < 0.9 * resamples:
        return math.nan, math.nan, "too many resamples have only ties"
    return (*bca(value, resampled, leave_one_out, confidence, resamples), "")


Coefficient = tuple[Callable[[Ints], Array], Callable[[Ints], Array]]


def _spearman(x: Array, y: Array) -> Coefficient:
    """Spearman's rho as a function of multiplicities, (B, n), and of orders of x, (B, n).

    A centred mid-rank is half the sum of signs against all models, in which copies of the model count 0.
    """
    sx, sy = signs(x).astype(np.float64), signs(y).astype(np.float64)

    def of_counts(counts: Ints) -> Array:
        m = counts.astype(np.float64)
        r, q = m @ sx.T, m @ sy.T
        with np.errstate(invalid="ignore"):
            return np.asarray((m * r * q).sum(1) / np.sqrt((m * r**2).sum(1) * (m * q**2).sum(1)))

    def of_orders(orders: Ints) -> Array:
        r, q = sx.sum(1), sy.sum(1)
        return np.asarray(r[orders] @ q / math.sqrt((r**2).sum() * (q**2).sum()))

    return of_counts, of_orders


def _weighted(x: Array, y: Array) -> Coefficient:
    """Vigna's weighted tau, both rankings averaged, as a function of multiplicities and of orders of x."""
    sx, sy = signs(x), signs(y)
    # Ties in one column are ranked by the other, what is left by position; as scipy does, for negated columns.
    n = len(x)
    position = -np.arange(n)
    by_x, by_y = np.lexsort((position, y, x)), np.lexsort((position, x, y))
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    agree = (sx * sy).astype(np.float64)
    free_x, free_y = (np.abs(v).astype(np.float64) for v in (sx, sy))

    def of_counts(counts: Ints) -> Array:
        products = [counts @ matrix for matrix in (agree, free_x, free_y)]
        values = []
        for order in (by_x, by_y):
            ends = np.cumsum(counts[:, order], axis=1)
            # Copies of a model hold consecutive ranks: their weights are a piece of the harmonic series.
            weights = np.empty(counts.shape)
            weights[:, order] = harmonic[ends] - harmonic[ends - counts[:, order]]
            s, untied_x, untied_y = ((weights * product).sum(1) for product in products)
            with np.errstate(invalid="ignore", divide="ignore"):
                values.append(s / np.sqrt(untied_x * untied_y))
        return np.asarray(np.mean(values, axis=0))

    def of_orders(orders: Ints) -> Array:
        return np.array([_plain_weighted(x[order], y, sx[np.ix_(order, order)], sy) for order in orders])

    return of_counts, of_orders


def _plain_weighted(x: Array, y: Array, sx: Signs, sy: Signs) -> float:
    position = -np.arange(len(x))
    agree, free_x, free_y = ((v.sum(1, dtype=np.int64)) for v in (sx * sy, np.abs(sx), np.abs(sy)))
    value = 0.0
    weights = np.empty(len(x))
    for order in (np.lexsort((position, y, x)), np.lexsort((position, x, y))):
        weights[order] = 1 / np.arange(1, len(x) + 1)
        value += (weights @ agree) / math.sqrt((weights @ free_x) * (weights @ free_y)) / 2
    return value
