r"""The noise ceiling: which tau a perfect measure would show on targets that are themselves measured with noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acutance.analysis.machinery.columns import MIN_MODELS, Array, joined
from acutance.analysis.machinery.kernels import plain_sums
from acutance.analysis.machinery.ranked import Ranked
from acutance.analysis.machinery.resampling import pieces
from acutance.errors import UserError

FEW = 200  # models up to which comparing all pairs, many draws at once, takes less time than sorting draw by draw


@dataclass(frozen=True)
class Ceiling:
    """The tau a perfect measure is expected to show.

    Attributes:
        tau: mean of tau-a between true errors (or a perfect measure with its own noise) and measured errors.
        low: 2.5% quantile over simulated test sets: what a perfect measure may show by bad luck.
        high: 97.5% quantile.
        n: models.
        spread: estimated standard deviation of the true errors.
        noise: root mean square of the standard errors of the measured ones.
        note: what a reader should know.
    """

    tau: float
    low: float
    high: float
    n: int
    spread: float
    noise: float
    note: str = ""


def noise_ceiling(
    errors: ArrayLike,
    points: ArrayLike,
    replicates: ArrayLike | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Ceiling:
    r"""Return the tau that a perfect measure is expected to show for errors counted on test sets.

    A measured error is :math:`\hat e \sim Bin(n, e) / n`, with variance :math:`e (1-e)/n`. The measured errors spread
    more than the true ones, so these are shrunk to the pool's mean until they spread as the true ones must,

    .. math:: e_k = \bar e + (\hat e_k - \bar e) \sqrt{\sigma^2 / Var(\hat e)}, \quad
              \sigma^2 = \max\left(0,\ Var(\hat e) - \overline{\hat e (1 - \hat e) / n}\right),

    new test sets are drawn, and tau-a is taken between e and the errors on them. With replicates of the measure
    (other seeds), the perfect measure ranks models as e does, but is seen with its own noise: the shrunken means of
    the replicates, sorted as e is, plus normal noise of the standard error of each.

    Errors of models on one test set share its points; differences between models are then less noisy than this
    assumes and the ceiling is higher: a tau above it is no contradiction.

    Args:
        errors: measured test errors, (M,), shares between 0 and 1; NaN is missing.
        points: test points, one number or one for each model, (M,).
        replicates: values of the measure, (M, R), whose mean over R is correlated; NaN and infinities are missing.
        draws: simulated test sets.
        seed: names them.

    Raises:
        UserError: for errors outside [0, 1], points below 1, or replicates of other models.
    """
    e = np.asarray(errors, np.float64)
    if e.ndim != 1 or ((e < 0) | (e > 1)).any():
        raise UserError("errors: must be one share between 0 and 1 for each model", "divide percentages by 100")
    sizes = np.broadcast_to(np.asarray(points), e.shape) if np.ndim(points) == 0 else np.asarray(points)
    if sizes.shape != e.shape or (sizes < 1).any() or (sizes != np.floor(sizes)).any():
        raise UserError("points: must be a whole number of test points, one for all models or one for each")
    measured = None if replicates is None else np.asarray(replicates, np.float64)
    if measured is not None and (measured.ndim != 2 or len(measured) != len(e)):
        raise UserError(f"replicates: must be (models, replicates), got shape {measured.shape} for {len(e)} models")
    keep = ~np.isnan(e)
    note = f"{(~keep).sum()} models have no value" if not keep.all() else ""
    if measured is not None:
        # An infinite value has a rank but no spread; the noise of the others is what can be told.
        measured = np.where(np.isinf(measured), np.nan, measured)
        enough = (~np.isnan(measured)).sum(1) >= 2
        if not enough.all():
            note = joined(note, f"{(~enough).sum()} models have fewer than two finite replicates")
        keep &= enough
    e, sizes = e[keep], sizes[keep].astype(np.int64)
    n, nan = len(e), math.nan
    if n < MIN_MODELS:
        return Ceiling(nan, nan, nan, n, nan, nan, joined(note, f"fewer than {MIN_MODELS} models"))
    noise = e * (1 - e) / sizes
    true, spread = _shrunk(e, noise)
    if spread == 0:
        note = joined(note, "the errors differ by no more than test noise: no measure can rank these models")
    g = np.random.default_rng([seed, n, 7])
    share = np.clip(true, 0, 1)
    # Counts take a quarter of the memory of errors; all of them are drawn before the noise of the replicates is.
    seen = np.concatenate([g.binomial(sizes, share, size=(rows, n)).astype(np.int32) for rows in pieces(draws, n)])
    perfect = repeat(true, draws) if measured is None else _perfect_but_noisy(true, measured[keep], draws, g)
    taus = _taus((counted / sizes for counted in seen), perfect, n)
    low, high = np.quantile(taus, [0.025, 0.975])
    return Ceiling(float(taus.mean()), float(low), float(high), n, spread, math.sqrt(float(noise.mean())), note)


def ceiling_of_spread(error: float, spread: float, points: int) -> float:
    r"""Return the ceiling for a pool that is only planned: normal true errors, counted on a test set.

    .. math:: \tau = \frac{2}{\pi} \arcsin \frac{\sigma}{\sqrt{\sigma^2 + e (1-e) / n}}

    (tau-a of two normal variables with that correlation, Kendall 1970; ties of the counted errors are neglected).

    Args:
        error: mean error, a share.
        spread: standard deviation of the true errors, as a share: 0.003 for 0.3 points.
        points: test points n.

    Raises:
        UserError: for an error outside (0, 1), a negative spread or no points.
    """
    if not 0 < error < 1 or spread < 0 or points < 1:
        raise UserError("ceiling_of_spread: needs an error between 0 and 1, a spread of at least 0 and a test point")
    return 2 / math.pi * math.asin(spread / math.sqrt(spread**2 + error * (1 - error) / points))


def split_half(correct: ArrayLike, *, repeats: int = 200, seed: int = 0) -> Ceiling:
    """Return tau between the models' errors on two random halves of the test points.

    It needs no model of the noise and knows that models share test points. It is lower than the ceiling: both
    sides are noisy, and each has half of the points.

    Args:
        correct: whether model k is right on point i, (M, n), 0/1 or booleans.
        repeats: random halves.
        seed: names them.

    Raises:
        UserError: when there are not at least two points for each model.
    """
    right = np.asarray(correct, np.float64)
    if right.ndim != 2 or right.shape[1] < 2 or not np.isin(right, (0, 1)).all():
        raise UserError("correct: must be a table of 0 and 1, (models, test points), with at least two points")
    n, points = right.shape
    nan = math.nan
    if n < MIN_MODELS:
        return Ceiling(nan, nan, nan, n, nan, nan, f"fewer than {MIN_MODELS} models")
    g = np.random.default_rng([seed, n, 8])
    half = points // 2
    # One order of the points at a time: all of them may be larger than the table.
    orders = (g.permutation(points) for _ in range(repeats))
    halves = [(right[:, order[:half]].sum(1), right[:, order[half : 2 * half]].sum(1)) for order in orders]
    taus = _taus((first for first, _ in halves), (second for _, second in halves), n)
    e = 1 - right.mean(1)
    noise = e * (1 - e) / points
    low, high = np.quantile(taus, [0.025, 0.975])
    return Ceiling(float(np.mean(taus)), float(low), float(high), n, _shrunk(e, noise)[1], math.sqrt(noise.mean()))


def _shrunk(values: Array, noise: Array) -> tuple[Array, float]:
    """Return values drawn to their mean until they spread as without the noise variance, and that spread."""
    observed = float(values.var(ddof=1))
    true = max(0.0, observed - float(noise.mean()))
    factor = math.sqrt(true / observed) if observed > 0 else 0.0
    return values.mean() + factor * (values - values.mean()), math.sqrt(true)


def _perfect_but_noisy(true: Array, measured: Array, draws: int, g: np.random.Generator) -> Iterator[Array]:
    """Yield values of a measure that ranks models as the true errors do, seen with its own noise, (n,) each."""
    count = (~np.isnan(measured)).sum(1)
    means, variances = np.nanmean(measured, axis=1), np.nanvar(measured, axis=1, ddof=1) / count
    clean, _ = _shrunk(means, variances)
    # The k-th smallest error gets the k-th smallest value, and the noise that values there have.
    by_value, by_error = np.argsort(clean, kind="stable"), np.argsort(true, kind="stable")
    value, deviation = np.empty(len(true)), np.empty(len(true))
    value[by_error], deviation[by_error] = clean[by_value], np.sqrt(variances[by_value])
    for _ in range(draws):
        yield value + deviation * g.normal(size=len(true))


def _taus(left: Iterable[Array], right: Iterable[Array], n: int) -> Array:
    """Return tau-a of each column of one series with that of the other, (B,); each column is (n,)."""
    pairs = n * (n - 1) // 2
    if n > FEW:
        return np.array([plain_sums(Ranked.of(a), Ranked.of(b))[0] for a, b in zip(left, right, strict=True)]) / pairs
    a, b = (np.stack(list(columns), axis=1) for columns in (left, right))  # (n, B): pairs of models are pairs of rows
    sums = np.zeros(a.shape[1], np.int64)
    for k in range(1, n):
        # The pairs of all models with those k places further.
        sums += (_signs(a[k:], a[:-k]) * _signs(b[k:], b[:-k])).sum(0, dtype=np.int64)
    return sums / pairs


def _signs(a: Array, b: Array) -> NDArray[np.int8]:
    return (a > b).view(np.int8) - (a < b).view(np.int8)
