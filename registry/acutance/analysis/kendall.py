r"""Kendall's rank correlation with an interval and a p-value that a reader can trust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acutance.analysis.machinery.intervals import bca
from acutance.analysis.machinery.kernels import pair_sums, plain_sums, sums_without_each
from acutance.analysis.machinery.perfect import perfect_bound
from acutance.analysis.machinery.permuting import permuted_sums
from acutance.analysis.machinery.ranked import Family, Ranked
from acutance.analysis.machinery.resampling import (
    bootstrap_counts,
    goes_through_all,
    order_blocks,
    orders_of,
    p_of_hits,
)
from acutance.errors import UserError

Variant = Literal["a", "b", "c"]
Nonfinite = Literal["refuse", "drop", "rank_max"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class KendallResult:
    """Kendall's tau with its uncertainty.

    Attributes:
        tau: the coefficient; NaN when it is not defined: b and c of a column of one value. ``a`` is 0 there.
        low: lower end of the interval; NaN when there is none, ``note`` says why.
        high: upper end.
        p: two-sided permutation p-value of "no association"; NaN where tau is.
        n: models compared.
        ties: pairs tied in t or in s.
        variant: a (the paper's Eq. 4), b or c.
        note: what a reader should know of this number; empty mostly.
    """

    tau: float
    low: float
    high: float
    p: float
    n: int
    ties: int
    variant: Variant = "a"
    note: str = ""

    @property
    def line(self) -> str:
        """Tau, interval, p and number of models in one line."""
        interval = f" [{self.low:+.3f}, {self.high:+.3f}]" if math.isfinite(self.low) else ""
        tau = f"{self.tau:+.3f}" if math.isfinite(self.tau) else "not defined"
        note = f" ({self.note})" if self.note else ""
        return f"tau-{self.variant} = {tau}{interval}, p = {self.p:.4g}, n = {self.n}{note}"

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(self.line)

    def _repr_html_(self) -> str:
        return f"<strong>{escape(self.line)}</strong>"


def kendall_tau(
    t: ArrayLike,
    s: ArrayLike,
    variant: Variant = "a",
    *,
    nonfinite: Nonfinite = "refuse",
    confidence: float = 0.95,
    resamples: int = 9999,
    permutations: int = 9999,
    seed: int = 0,
) -> KendallResult:
    r"""Return Kendall's tau of two columns over models, with BCa interval and permutation p-value.

    .. math:: \tau_a = \frac{2}{M(M-1)} \sum_{i<j} sign(t_i - t_j)\, sign(s_i - s_j)

    (the paper's Eq. 4: a tie counts 0, and so does a column of one value, of which b and c are not defined);
    :math:`\tau_b = S / \sqrt{(n_0 - n_1)(n_0 - n_2)}`;
    :math:`\tau_c = 2 S / (M^2 (k-1)/k)`, k the smaller number of distinct values.

    The interval resamples models; a model drawn twice is not compared with itself, since that tie would
    shrink every resampled tau. When all pairs agree, every resample does too and the bootstrap knows
    nothing: the other end is then the exact one for jointly normal scores (``perfect_bound``).

    Args:
        t: target values, e.g. test errors, (M,).
        s: values of a measure, (M,).
        variant: a, b or c.
        nonfinite: ``refuse`` NaN and infinities; ``drop`` models that have one; ``rank_max``: infinities keep
            their rank (a diverged value is the sharpest), NaN is refused.
        confidence: level of the interval.
        resamples: bootstrap resamples of models; 0 for none, there is no interval.
        permutations: random permutations for p; all of them when there are at most 8 models; 0 for none, p is NaN.
        seed: names resamples and permutations.

    Raises:
        UserError: for columns of different length, fewer than two models, non-finite values without a policy.
    """
    return tau_at_levels(t, s, [confidence], variant, nonfinite, resamples, permutations, seed)[0]


def tau_at_levels(
    t: ArrayLike, s: ArrayLike, levels: Sequence[float], variant: Variant, nonfinite: Nonfinite, resamples: int,
    permutations: int, seed: int,
) -> list[KendallResult]:  # fmt: skip
    """Return ``kendall_tau`` with its interval at several levels, from one bootstrap."""
    x, y, note = _columns(t, s, nonfinite)
    if variant not in ("a", "b", "c"):
        raise UserError(f"variant: '{variant}' is not known", "choose a, b or c")
    if wrong := [level for level in levels if not 0 < level < 1]:
        raise UserError(f"confidence: must be between 0 and 1, got {wrong[0]}")
    n = len(x)
    if n < 2:
        raise UserError(f"a rank correlation needs at least two models, got {n}")
    a, b = Ranked.of(x), Ranked.of(y)
    observed, classes = plain_sums(a, b), min(a.levels, b.levels)
    tau = float(_tau(observed[None], variant, n, classes)[0])
    ties = tied_pairs(a, b)
    defined = permutations and not math.isnan(tau)
    p = permutation_p(x, y, int(observed[0]), permutations, seed) if defined else math.nan
    ends, reason = [(math.nan, math.nan)] * len(levels), ""
    if ties == n * (n - 1) // 2:
        reason = "all pairs are tied"
    elif n < 4:
        reason = "an interval needs at least 4 models"
    elif resamples:
        ends, reason = _intervals(tau, a, b, variant, classes, levels, resamples, seed)
    full_note = "; ".join(filter(None, (note, reason)))
    return [KendallResult(tau, low, high, p, n, ties, variant, full_note) for low, high in ends]


def _columns(t: ArrayLike, s: ArrayLike, nonfinite: Nonfinite) -> tuple[Array, Array, str]:
    try:
        x, y = np.asarray(t, np.float64), np.asarray(s, np.float64)
    except (TypeError, ValueError):
        raise UserError("the columns must be numbers") from None
    if x.ndim != 1 or x.shape != y.shape:
        raise UserError(f"the columns must be two vectors of one length, got shapes {x.shape} and {y.shape}")
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if not bad.any():
        return x, y, ""
    count = int(bad.sum())
    if nonfinite == "drop":
        return x[~bad], y[~bad], f"{count} models with non-finite values dropped"
    if nonfinite == "rank_max" and not (np.isnan(x) | np.isnan(y)).any():
        return x, y, f"{count} infinite values ranked as extreme"
    if nonfinite not in ("refuse", "rank_max"):
        raise UserError(f"nonfinite: '{nonfinite}' is not known", "choose refuse, drop or rank_max")
    raise UserError(
        f"{count} of {len(x)} models have a non-finite value", "choose nonfinite='drop', or 'rank_max' for infinities"
    )


def _tau(sums: NDArray[np.int64], variant: Variant, n: int, classes: int) -> Array:
    """Tau of pair sums, (B, 4) -> (B,); NaN where it is not defined."""
    s, pairs, tied_x, tied_y = sums.T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        if variant == "a":
            tau = np.where(pairs > 0, s / pairs, np.nan)
        elif variant == "b":
            tau = s / np.sqrt((pairs - tied_x) * (pairs - tied_y))
        else:
            # 2 S / (M^2 (k-1)/k), written with the pairs there are so that a resample has the same scale.
            scale = ((n - 1) / n) * classes / (classes - 1) if classes > 1 else np.nan
            tau = s / pairs * scale
    return np.asarray(tau, np.float64)


def tied_pairs(x: Ranked, y: Ranked) -> int:
    """Return how many pairs are tied in x or in y: tied in one, tied in the other, less those in both."""
    if not (x.tied and y.tied):
        return int(x.tied_with.sum() + y.tied_with.sum()) // 2
    both = Ranked.of(x.codes.astype(np.float64) * (y.levels + 1) + y.codes)
    return sum(int(column.tied_with.sum()) * sign for column, sign in ((x, 1), (y, 1), (both, -1))) // 2


def permutation_p(x: Array, y: Array, observed: int, permutations: int, seed: int) -> float:
    """Return the two-sided p-value: exact for at most 8 models, else (1 + hits) / (1 + permutations)."""
    n, moved, still = len(x), Family(x[None]), Family(y[None])
    hits = sum(
        int((np.abs(permuted_sums(orders, moved, still)) >= abs(observed)).sum())
        for orders in order_blocks(n, permutations, seed)
    )
    return float(p_of_hits(hits, orders_of(n, permutations), goes_through_all(n)))


def _intervals(
    tau: float, x: Ranked, y: Ranked, variant: Variant, classes: int, levels: Sequence[float], resamples: int, seed: int
) -> tuple[list[tuple[float, float]], str]:
    """Bias-corrected and accelerated bootstrap (Efron 1987) over models, at each level."""
    n = len(x.codes)
    sums = pair_sums(bootstrap_counts(n, resamples, seed), x, y, ties=variant == "b")
    resampled = _tau(sums, variant, n, classes)
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < 0.9 * resamples:
        return [(math.nan, math.nan)] * len(levels), "too many resamples have only ties"
    if np.ptp(resampled) < 1e-12:
        bounds = [perfect_bound(n, (1 - level) / 2, resamples, seed) for level in levels]
        note = "all pairs agree: the interval is exact for normal scores, the bootstrap knows none"
        return [(bound, 1.0) if tau > 0 else (-1.0, -bound) for bound in bounds], note
    without = _tau(sums_without_each(x, y), variant, n - 1, classes)
    interval_at = {level: bca(tau, resampled, without, level, resamples) for level in dict.fromkeys(levels)}
    return [interval_at[level] for level in levels], ""


def tau_without_each(x: Array, y: Array, variant: Variant = "a") -> Array:
    """Return tau without one model each, (n,): the jackknife's values."""
    a, b = Ranked.of(x), Ranked.of(y)
    return _tau(sums_without_each(a, b), variant, len(x) - 1, min(a.levels, b.levels))


def null_sd(n: int) -> float:
    """Return the standard deviation of tau-a without ties under independence."""
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) if n > 1 else math.inf
