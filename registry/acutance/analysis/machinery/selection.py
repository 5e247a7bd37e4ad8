r"""What choosing the flattest models is worth: regret, hits, violations, tails and the upper quantile of error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import linprog
from scipy.sparse import csc_array, eye_array, hstack
from scipy.special import betaincinv

from acutance.analysis.machinery.columns import MIN_MODELS, Array, complete, constant, joined, ranks
from acutance.analysis.machinery.resampling import goes_through_all, order_blocks, orders_of, p_of_hits
from acutance.errors import UserError

SPARSE = 500  # models from which on the program of the quantile regression is written down without its zeros


@dataclass(frozen=True)
class Selection:
    """The flattest models F = those with the ceil(qM) smallest values of a measure, and how they generalize.

    Attributes:
        q: share of the models that is chosen.
        n: models.
        chosen: size of F; more than ceil(qM) when values at the cut are tied or within two standard errors.
        regret: (mean target in F - best) / (mean of all - best): 0 is perfect, 1 is a random choice.
        worst_regret: the same for the worst model of F, which is what "flat is sufficient" speaks of.
        hit_rate: share of F among the ceil(qM) best (ties included): the lower-left tail dependence at q.
        hit_p: P(so many hits or more) of a random F, hypergeometric.
        miss_rate: share of F among the ceil(qM) worst: the lower-right tail.
        violations: models of F above the pool's median target.
        violation_rate: share of F.
        violation_low: one-sided Clopper-Pearson lower bound of that rate.
        violation_high: one-sided upper bound.
        violation_p: P(so few violations or fewer) of a random F, hypergeometric.
        note: what a reader should know.
    """

    q: float
    n: int
    chosen: int
    regret: float
    worst_regret: float
    hit_rate: float
    hit_p: float
    miss_rate: float
    violations: int
    violation_rate: float
    violation_low: float
    violation_high: float
    violation_p: float
    note: str = ""


def flattest(
    t: ArrayLike, s: ArrayLike, q: float = 0.1, *, stderr: ArrayLike | None = None, confidence: float = 0.95
) -> Selection:
    """Return how the flattest models generalize.

    Args:
        t: target values, larger is worse, (M,); NaN is missing.
        s: values of a measure, larger is sharper, (M,).
        q: share of models to choose.
        stderr: standard errors of s, (M,): a model within two of them of the cut counts as equally flat.
        confidence: of each one-sided bound of the violation rate.

    Raises:
        UserError: for q outside (0, 1), and for columns of different lengths.
    """
    if not 0 < q < 1:
        raise UserError(f"q: must be a share between 0 and 1, got {q}")
    (x, y, e), _, note = complete(t, s, np.zeros(np.shape(s)) if stderr is None else stderr)
    n, nan = len(x), math.nan
    if n < MIN_MODELS or constant(y) or constant(x):
        reason = f"fewer than {MIN_MODELS} models" if n < MIN_MODELS else "all models have the same value"
        return Selection(q, n, 0, nan, nan, nan, nan, nan, 0, nan, nan, nan, nan, joined(note, reason))
    k = wanted(q, n)
    flat = y <= np.sort(y)[k - 1] + 2 * e
    chosen = int(flat.sum())
    if chosen > k:
        note = joined(note, f"{chosen - k} more models are as flat as the last of {k}")
    best, worst = x <= np.sort(x)[k - 1], x >= np.sort(x)[n - k]
    above = x > np.median(x)
    hits, violations = int((flat & best).sum()), int((flat & above).sum())
    with np.errstate(invalid="ignore"):
        least, scale = x.min(), x.mean() - x.min()
        regret, worst_regret = (x[flat].mean() - least) / scale, (x[flat].max() - least) / scale
    low, high = clopper_pearson(violations, chosen, confidence)
    return Selection(
        q=q, n=n, chosen=chosen, regret=float(regret), worst_regret=float(worst_regret),
        hit_rate=hits / chosen, hit_p=_at_least(hits, n, int(best.sum()), chosen),
        miss_rate=int((flat & worst).sum()) / chosen,
        violations=violations, violation_rate=violations / chosen, violation_low=low, violation_high=high,
        violation_p=_at_most(violations, n, int(above.sum()), chosen), note=note,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _at_least(hits: int, n: int, marked: int, chosen: int) -> float:
    return _among(hits, chosen, n, marked, chosen)


@lru_cache(maxsize=4096)
def _at_most(hits: int, n: int, marked: int, chosen: int) -> float:
    return _among(0, hits, n, marked, chosen)


def _among(least: int, most: int, n: int, marked: int, chosen: int) -> float:
    r"""Return the hypergeometric P(least <= hits <= most) of ``chosen`` among n, of which some are marked.

    .. math:: \sum_k \binom{m}{k} \binom{n - m}{c - k} \Big/ \binom{n}{c}

    in whole numbers, each term made from the one before.
    """
    least, most = max(least, chosen - (n - marked), 0), min(most, marked, chosen)
    if least > most:
        return 0.0
    term = math.comb(marked, least) * math.comb(n - marked, chosen - least)
    total = term
    for k in range(least, most):
        term = term * ((marked - k) * (chosen - k)) // ((k + 1) * (n - marked - chosen + k + 1))
        total += term
    return total / math.comb(n, chosen)


def wanted(q: float, n: int) -> int:
    """Return ceil(q n), without the last bit of q mattering."""
    return min(n, max(1, math.ceil(q * n - 1e-9)))


@lru_cache(maxsize=4096)
def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return exact one-sided lower and upper bounds of a proportion (Clopper and Pearson 1934).

    Together they are a two-sided interval of level 1 - 2 (1 - confidence).
    """
    low = float(betaincinv(hits, trials - hits + 1, 1 - confidence)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, confidence)) if hits < trials else 1.0
    return low, high


def tails(t: ArrayLike, s: ArrayLike, shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)) -> pd.DataFrame:
    r"""Return both tails of the flattest models for several shares q.

    ``lower`` is :math:`P(rank\,t \le q \mid rank\,s \le q)`, ``upper`` :math:`P(rank\,t \ge 1-q \mid rank\,s \le q)`.
    Without association both are near q; "flat is sufficient, not necessary" is an upper curve well below q.

    Returns:
        Columns q, n, chosen, lower, upper, note.
    """
    rows = [flattest(t, s, q) for q in shares]
    return pd.DataFrame(
        [(r.q, r.n, r.chosen, r.hit_rate, r.miss_rate, r.note) for r in rows],
        columns=["q", "n", "chosen", "lower", "upper", "note"],
    )


@dataclass(frozen=True)
class QuantileSlope:
    """How the upper quantile of the target rises with the rank of the measure.

    Attributes:
        slope: change of the quantile from the flattest to the sharpest model of those looked at, in units of t.
        intercept: the quantile at rank 0.
        p: one-sided, for "rises"; permutation of the rank score test.
        n: models looked at.
        quantile: which.
        note: what a reader should know.
    """

    slope: float
    intercept: float
    p: float
    n: int
    quantile: float
    note: str = ""


def quantile_slope(
    t: ArrayLike, s: ArrayLike, quantile: float = 0.9, *, span: float = 1.0, permutations: int = 9999, seed: int = 0
) -> QuantileSlope:
    r"""Return the quantile regression of t on the rank of s (Koenker and Bassett 1978), and whether it rises.

    .. math:: \min_{a,b} \sum_i \rho_q\left(t_i - a - b\, r_i\right), \quad
              \rho_q(u) = u (q - [u < 0]), \quad r_i = rank(s_i) / M

    If flat minima generalize well, the largest errors among equally flat models rise with sharpness even where
    the smallest do not. The test is the permuted rank score (Gutenbrunner et al. 1993): models above the quantile
    of t, do they lie among the sharper ones?

    Args:
        t: target values, larger is worse, (M,).
        s: values of a measure, (M,).
        quantile: of t.
        span: share of the flattest models to look at; 0.5 asks about the low end.
        permutations: for p; all of them when there are at most 8 models.
        seed: names them.

    Raises:
        UserError: for a quantile or span outside its range.
    """
    if not 0 < quantile < 1 or not 0 < span <= 1:
        raise UserError("quantile and span: must be shares between 0 and 1")
    (x, y), _, note = complete(t, s, infinite="rank")
    if np.isinf(x).any():
        finite = np.isfinite(x)
        note = joined(note, "models with an infinite target are left out")
        x, y = x[finite], y[finite]
    if len(x):
        flat = y <= np.sort(y)[wanted(span, len(y)) - 1]
        x, y = x[flat], y[flat]
    n, nan = len(x), math.nan
    reason = f"fewer than {MIN_MODELS} models" if n < MIN_MODELS else ""
    if not reason and (constant(x) or constant(y)):
        reason = "all models have the same value"
    if reason:
        return QuantileSlope(nan, nan, nan, n, quantile, joined(note, reason))
    r = ranks(y) / n
    intercept, slope = _regression(x, r, quantile)
    above = (x > np.quantile(x, quantile)).astype(np.float64)
    centred = r - r.mean()
    scores = centred @ above
    hits = sum(int((centred[orders] @ above >= scores - 1e-12).sum()) for orders in order_blocks(n, permutations, seed))
    p = p_of_hits(hits, orders_of(n, permutations), goes_through_all(n))
    return QuantileSlope(slope, intercept, p, n, quantile, note)


def _regression(t: Array, r: Array, quantile: float) -> tuple[float, float]:
    """Return intercept and slope by linear programming: t = a + b r + u - v with u, v >= 0."""
    n = len(t)
    # Targets of any scale meet the solver's absolute tolerances alike.
    unit = float(np.ptp(t))
    one: Any = eye_array(n, format="csc") if n > SPARSE else np.eye(n)
    parts = [np.column_stack([np.ones(n), r]), one, -one]
    design = hstack([csc_array(parts[0]), *parts[1:]], format="csc") if n > SPARSE else np.column_stack(parts)
    costs = np.concatenate([[0, 0], np.full(n, quantile), np.full(n, 1 - quantile)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * n)
    solution = linprog(costs, A_eq=design, b_eq=(t - t.min()) / unit, bounds=bounds, method="highs")
    return float(solution.x[0]) * unit + float(t.min()), float(solution.x[1]) * unit
