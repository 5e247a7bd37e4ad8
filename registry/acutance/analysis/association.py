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
from numpy.typing import ArrayLike, NDArray

from acutance.analysis.kendall import Variant, kendall_tau, tau_without_each, tied_pairs
from acutance.analysis.machinery.columns import MIN_MODELS, Array, Infinite, complete, constant, joined
from acutance.analysis.machinery.intervals import bca, jackknife
from acutance.analysis.machinery.kernels import agreements
from acutance.analysis.machinery.perfect import perfect_bound
from acutance.analysis.machinery.ranked import Ranked
from acutance.analysis.machinery.resampling import (
    Counts,
    Orders,
    bootstrap_counts,
    goes_through_all,
    order_blocks,
    orders_of,
    p_of_hits,
    pieces,
)
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

    ``tau_a`` (the paper's Eq. 4), ``tau_b`` and ``tau_c`` are those of ``kendall_tau``. ``spearman`` is
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
    ties = tied_pairs(Ranked.of(x), Ranked.of(y))
    reason = _undefined(x, y)
    if reason:
        # A constant column agrees with nothing: tau-a counts ties as 0 in every order, the others divide by nothing.
        defined = method == "tau_a" and n >= MIN_MODELS
        value, p = 0.0 if defined else math.nan, 1.0 if defined and permutations else math.nan
        return Association(method, value, math.nan, math.nan, p, n, ties, joined(note, reason))
    if method.startswith("tau_"):
        variant, at_once = cast(Variant, method[-1]), interval == "jackknife" and n >= 4
        settings: dict[str, Any] = {"nonfinite": "rank_max", "confidence": confidence, "seed": seed}
        kendall = kendall_tau(
            x, y, variant, resamples=0 if at_once else resamples, permutations=permutations, **settings
        )  # fmt: skip
        low, high = kendall.low, kendall.high
        if at_once and resamples and _perfect(kendall.tau):
            bound = kendall_tau(x, y, variant, resamples=resamples, permutations=0, **settings)
            low, high, kendall = bound.low, bound.high, replace(kendall, note=bound.note)
        elif at_once and resamples:
            low, high = jackknife(kendall.tau, tau_without_each(x, y, variant), confidence)
        # Infinities are told by ``complete`` already.
        kendall_note = "" if "infinite" in kendall.note and "ranked" in kendall.note else kendall.note
        return Association(method, kendall.tau, low, high, kendall.p, n, ties, joined(note, kendall_note))
    coefficient = (_Spearman if method == "spearman" else _Weighted)(x, y)
    value = float(coefficient.of_counts(np.ones((1, n), np.uint8))[0])
    p = math.nan
    if permutations:
        hits = sum(
            int((np.abs(_in_pieces(coefficient.of_orders, orders)) >= abs(value) - 1e-12).sum())
            for orders in order_blocks(n, permutations, seed)
        )
        p = p_of_hits(hits, orders_of(n, permutations), goes_through_all(n))
    if not resamples:
        return Association(method, value, math.nan, math.nan, p, n, ties, note)
    low, high, why = _interval(value, n, coefficient, interval, confidence, resamples, seed)
    return Association(method, value, low, high, p, n, ties, joined(note, why))


def _undefined(x: Array, y: Array) -> str:
    if len(x) < MIN_MODELS:
        return f"fewer than {MIN_MODELS} models"
    return "all models have the same value" if constant(x) or constant(y) else ""


def _perfect(value: float) -> bool:
    return abs(value) > 1 - 1e-12


def _interval(
    value: float, n: int, coefficient: _Spearman | _Weighted, interval: Interval, confidence: float, resamples: int,
    seed: int,
) -> tuple[float, float, str]:  # fmt: skip
    if n < 4:
        return math.nan, math.nan, "an interval needs at least 4 models"
    if _perfect(value):
        if isinstance(coefficient, _Weighted):
            return math.nan, math.nan, "all pairs agree: no interval"
        rho = math.sin(math.pi / 2 * perfect_bound(n, (1 - confidence) / 2, resamples, seed))
        bound = 6 / math.pi * math.asin(rho / 2)
        return (
            *((bound, 1.0) if value > 0 else (-1.0, -bound)),
            "all pairs agree: the interval is exact for normal scores",
        )
    without = coefficient.without_each()
    if interval == "jackknife":
        return (*jackknife(value, without, confidence), "")
    resampled = _in_pieces(coefficient.of_counts, bootstrap_counts(n, resamples, seed))
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < 0.9 * resamples:
        return math.nan, math.nan, "too many resamples have only ties"
    return (*bca(value, resampled, without, confidence, resamples), "")


def _in_pieces(of: Callable[[Any], Array], rows: Counts | Orders) -> Array:
    """Return a coefficient of many rows, as many at a time as fit into memory."""
    coefficients, start = [np.empty(0)], 0
    for count in pieces(*rows.shape):
        coefficients.append(of(rows[start : start + count]))
        start += count
    return np.concatenate(coefficients)


class _Spearman:
    """Spearman's rho of multiplicities and of orders of x.

    A centred mid-rank is half the sum of signs against all models, in which copies of the model count 0.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = Ranked.of(x), Ranked.of(y)

    def of_counts(self, counts: Counts) -> Array:
        """Return rho of each row of multiplicities, (B, n) -> (B,)."""
        m = counts.astype(np.float64)
        r, q = _sign_sums(m, self.x), _sign_sums(m, self.y)
        with np.errstate(invalid="ignore"):
            return np.asarray((m * r * q).sum(1) / np.sqrt((m * r**2).sum(1) * (m * q**2).sum(1)))

    def of_orders(self, orders: Orders) -> Array:
        """Return rho with x in each order, (B, n) -> (B,)."""
        r, q = (_sign_sums(np.ones((1, len(c.codes))), c)[0] for c in (self.x, self.y))
        return np.asarray(r[orders] @ q / math.sqrt((r**2).sum() * (q**2).sum()))

    def without_each(self) -> Array:
        r"""Return rho without one model each, (n,).

        Without model k every sum of signs :math:`r_i` loses :math:`u_{ik} = sign(x_i - x_k)`, so the products are
        :math:`\sum_i (r_i - u_{ik})(q_i - v_{ik})` less its own; the mixed sums are sums over those above less those
        below k.
        """
        x, y, n = self.x, self.y, len(self.x.codes)
        one = np.ones((1, n))
        r, q = _sign_sums(one, x)[0], _sign_sums(one, y)[0]
        both = agreements(one.astype(np.uint8), x, y)[0]
        products = (r * q).sum() - r * q + _sign_sums(r[None], y)[0] + _sign_sums(q[None], x)[0] + both
        squares = [
            (v**2).sum() - v**2 + 2 * _sign_sums(v[None], c)[0] + (n - 1 - c.tied_with) for v, c in ((r, x), (q, y))
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(products / np.sqrt(squares[0] * squares[1]))


def _sign_sums(m: Array, column: Ranked) -> Array:
    """Return sum_j m_j sign(x_i - x_j) for each row of m, (B, n) -> (B, n)."""
    upto = np.cumsum(m[:, column.order], axis=1)
    high = column.ends - 1
    before = column.ends - (column.tied_with[column.order] + 1)
    total = upto[:, -1:]
    below = np.where(before > 0, upto[:, before - 1], 0.0)
    sums = np.empty_like(m)
    sums[:, column.order] = below - (total - upto[:, high])
    return sums


class _Weighted:
    """Vigna's weighted tau, both rankings averaged, of multiplicities and of orders of x."""

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = Ranked.of(x), Ranked.of(y)
        self.harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(x) + 1))])

    def _rankings(self, x: NDArray[np.int32], y: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ties in one column are ranked by the other, what is left by position; as scipy does, for negated columns."""
        position = -np.arange(len(x))
        return np.lexsort((position, y, x)), np.lexsort((position, x, y))

    def of_counts(self, counts: Counts) -> Array:
        """Return the weighted tau of each row of multiplicities, (B, n) -> (B,)."""
        m = counts.astype(np.int64)
        products = [agreements(counts, self.x, self.y).astype(np.float64)]
        products += [_untied(m, c).astype(np.float64) for c in (self.x, self.y)]
        values = []
        for order in self._rankings(self.x.codes, self.y.codes):
            ends = np.cumsum(m[:, order], axis=1)
            # Copies of a model hold consecutive ranks: their weights are a piece of the harmonic series.
            weights = np.empty(m.shape)
            weights[:, order] = self.harmonic[ends] - self.harmonic[ends - m[:, order]]
            s, untied_x, untied_y = ((weights * product).sum(1) for product in products)
            with np.errstate(invalid="ignore", divide="ignore"):
                values.append(s / np.sqrt(untied_x * untied_y))
        return np.asarray(np.mean(values, axis=0))

    def of_orders(self, orders: Orders) -> Array:
        """Return the weighted tau with x in each order, (B, n) -> (B,)."""
        return np.array([self._plain(order) for order in orders])

    def _plain(self, order: NDArray[np.int32]) -> float:
        n = len(order)
        one = np.ones((1, n), np.uint8)
        moved = self.x.in_order(order)
        agree = agreements(one, moved, self.y)[0]
        free_x, free_y = n - 1 - moved.tied_with, n - 1 - self.y.tied_with
        value, weights = 0.0, np.empty(n)
        for ranking in self._rankings(moved.codes, self.y.codes):
            weights[ranking] = 1 / np.arange(1, n + 1)
            value += (weights @ agree) / math.sqrt((weights @ free_x) * (weights @ free_y)) / 2
        return value

    def without_each(self) -> Array:
        """Return the weighted tau without one model each, (n,)."""
        n = len(self.x.codes)
        coefficients, start = [np.empty(0)], 0
        for rows in pieces(n, n):
            counts = np.ones((rows, n), np.uint8)
            counts[np.arange(rows), start + np.arange(rows)] = 0
            coefficients.append(self.of_counts(counts))
            start += rows
        return np.concatenate(coefficients)


def _untied(m: NDArray[np.int64], column: Ranked) -> NDArray[np.int64]:
    """Return how many drawn models differ from each in a column, (B, n) -> (B, n)."""
    upto = np.concatenate([np.zeros((len(m), 1), np.int64), np.cumsum(m[:, column.order], axis=1)], axis=1)
    size = column.tied_with[column.order] + 1
    differing = np.empty_like(m)
    differing[:, column.order] = upto[:, -1:] - (upto[:, column.ends] - upto[:, column.ends - size])
    return differing
