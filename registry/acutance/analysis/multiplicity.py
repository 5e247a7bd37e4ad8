r"""Many correlations at once: the false discovery rate, and a radius that is not judged where it was chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from acutance.analysis.machinery.columns import Array, complete, joined
from acutance.analysis.machinery.kernels import pair_sums
from acutance.analysis.machinery.ranked import Ranked
from acutance.analysis.machinery.resampling import Counts, pieces
from acutance.errors import UserError

MIN_HALVES = 8  # fewer models leave halves in which a tau says nothing


def false_discovery(p: ArrayLike, dependent: bool = False) -> Array:
    r"""Return p-values adjusted for the false discovery rate.

    .. math:: q_{(i)} = \min_{j \ge i} \min\left(1, \frac{m\, c}{j} p_{(j)}\right)

    with c = 1 (Benjamini and Hochberg 1995; valid for independent and positively dependent tests) or
    :math:`c = \sum_{i=1}^m 1/i` (Benjamini and Yekutieli 2001; any dependence). Among the
    correlations with q below 0.05, at most 5% are expected to be false. This explores; a claim about one
    correlation needs the family-wise ``max_tau_p``.

    Args:
        p: p-values of any shape; NaN is no test, and stays NaN.
        dependent: use Benjamini and Yekutieli's bound.

    Raises:
        UserError: for a p-value that is not between 0 and 1.
    """
    values = np.asarray(p, np.float64)
    there = ~np.isnan(values)
    if ((values[there] < 0) | (values[there] > 1)).any():
        raise UserError("p: p-values must be between 0 and 1")
    adjusted = np.full(values.shape, np.nan)
    if there.any():
        ordered, places = np.argsort(values[there]), np.arange(1, there.sum() + 1)
        scaled = values[there][ordered] * (len(places) / places) * ((1 / places).sum() if dependent else 1.0)
        minima = np.empty(len(places))
        # The minimum over all j >= i, from the largest p down.
        minima[ordered] = np.minimum.accumulate(scaled[::-1])[::-1].clip(0.0, 1.0)
        adjusted[there] = minima
    return adjusted


@dataclass(frozen=True)
class HeldOut:
    """What a radius is worth that was chosen on one half of the models and judged on the other.

    Attributes:
        tau: median of tau-a on the halves that did not choose.
        low: 2.5% quantile of it over halves. Halves share models: this is how much the answer depends on the
            split, not a confidence interval.
        high: 97.5% quantile.
        best: tau of the best radius on the same models it is chosen on: all of them.
        optimism: median of (tau where it was chosen - tau where it is judged).
        chosen: radius -> share of the halves that chose it.
        n: models with a value at every radius.
        repeats: random halves.
        note: what a reader should know.
    """

    tau: float
    low: float
    high: float
    best: float
    optimism: float
    chosen: dict[float, float]
    n: int
    repeats: int
    note: str = ""


def held_out_radius(
    t: ArrayLike,
    s: ArrayLike,
    radii: Sequence[float],
    *,
    select: Literal["largest", "strongest"] = "largest",
    repeats: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> HeldOut:
    r"""Return tau of the radius that is best on a random half of the models, on the other half.

    The best of many radii on the same models is too good. Here the choice never sees the models that judge it.

    Args:
        t: target values, (M,).
        s: values of one measure at R radii, (R, M). A model that lacks one of them is left out.
        radii: the R radii; any labels that can be told apart, a whole grid of definitions too.
        select: ``largest`` tau (flat generalizes), or ``strongest`` \|tau\|; the judged tau then
            has the sign with which it was chosen, so that a fickle sign shows as a tau near or below 0.
        repeats: random halves.
        confidence: of the interval over halves.
        seed: names them.

    Raises:
        UserError: when values and radii do not match, or for an unknown rule.
    """
    values = np.asarray(s, np.float64)
    if values.ndim != 2 or len(values) != len(radii) or len(radii) == 0 or len(set(radii)) != len(radii):
        raise UserError(f"s: needs one row for each of {len(radii)} different radii, got shape {values.shape}")
    if select not in ("largest", "strongest"):
        raise UserError(f"select: '{select}' is not known", "choose largest or strongest")
    (x, *rows), _, note = complete(t, *values)
    n = len(x)
    if n < MIN_HALVES:
        nan = math.nan
        return HeldOut(nan, nan, nan, nan, nan, {}, n, repeats, joined(note, f"halves need {MIN_HALVES} models"))
    half = _halves(n, repeats, seed)
    rest = 1 - half
    for counts in (half, rest):
        counts.setflags(write=False)  # one target against all radii
    a, others = Ranked.of(x), [Ranked.of(row) for row in rows]
    choosing, judging = (np.stack([_tau(counts, a, b) for b in others]) for counts in (half, rest))  # (R, B)
    whole = np.array([_tau(np.ones((1, n), np.uint8), a, b)[0] for b in others])
    score = np.abs if select == "strongest" else np.asarray
    # Of equally good radii the smallest index wins.
    picked = np.argmax(score(choosing), axis=0)
    at = np.arange(repeats)
    sign = np.where(choosing[picked, at] < 0, -1.0, 1.0) if select == "strongest" else np.ones(repeats)
    there, here = sign * judging[picked, at], sign * choosing[picked, at]
    low, high = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    shares = {radius: float((picked == k).mean()) for k, radius in enumerate(radii)}
    best = whole[np.argmax(score(whole))]
    gap = float(np.median(here - there))
    return HeldOut(float(np.median(there)), float(low), float(high), float(best), gap, shares, n, repeats, note)


def _halves(n: int, repeats: int, seed: int) -> Counts:
    """Return which models choose, (B, n): the smaller half of an odd number."""
    g, half = np.random.default_rng([seed, n, 6]), (np.arange(n) < n // 2).astype(np.uint8)
    return np.concatenate([g.permuted(np.tile(half, (rows, 1)), axis=1) for rows in pieces(repeats, n)])


def _tau(counts: Counts, x: Ranked, y: Ranked) -> Array:
    sums = pair_sums(counts, x, y, ties=False)
    return np.asarray(sums[:, 0] / sums[:, 1])
