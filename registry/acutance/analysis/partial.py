r"""Rank correlation of measure and target with hyperparameters held fixed, and what measures are confounded with."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri

from acutance.analysis.association import Association, Method, association
from acutance.analysis.machinery.columns import MIN_MODELS, Array, complete, constant, joined, ranks
from acutance.analysis.machinery.kernels import plain_sums
from acutance.analysis.machinery.ranked import Ranked
from acutance.analysis.machinery.resampling import p_of_hits, pieces
from acutance.errors import UserError

NAN = math.nan
DEGREE = 9  # of the largest power of a control that is fitted
DRAWS = 499  # simulated pools for each p of a study's tables
STUDENTIZED = 50  # models from which on products of what is left tell their own variance
PartialMethod = Literal["kendall", "spearman"]
Controls = Mapping[str, Any]
"""Name -> values over the models; a DataFrame is one too."""


@dataclass(frozen=True)
class Partial:
    """A rank correlation with controls held fixed.

    Attributes:
        method: kendall or spearman.
        value: the partial coefficient; NaN when it is not defined, ``note`` says why.
        raw: the coefficient without controls, of the same models (tau-b or rho).
        p: two-sided, of what the controls leave of the normal scores; the same for both methods.
        n: models that have target, measure and every control.
        controls: names of the controls.
        note: what a reader should know.
    """

    method: PartialMethod
    value: float
    raw: float
    p: float
    n: int
    controls: tuple[str, ...]
    note: str = ""


def partial(
    t: ArrayLike,
    s: ArrayLike,
    controls: Controls | pd.DataFrame,
    method: PartialMethod = "kendall",
    *,
    measured: Collection[str] = (),
    draws: int = 9999,
    seed: int = 0,
) -> Partial:
    r"""Return the partial rank correlation of t and s given controls.

    Each column is a vector: its signs over all pairs of models (``kendall``, so that cosines are tau-b), or its
    centred mid-ranks (``spearman``). The value is the cosine of what is left of t and s after both are projected
    on the span of the controls' vectors. For one control that is Kendall's (1942)

    .. math:: \tau_{ts|z} = \frac{\tau_{ts} - \tau_{tz} \tau_{sz}}{\sqrt{(1 - \tau_{tz}^2)(1 - \tau_{sz}^2)}}.

    A control that is not numeric is held fixed by one indicator for each of its levels.

    A partial tau is not 0 under conditional independence, not even for normal scores, so p does not rest on it. It is
    the same for both methods: normal scores of t and s (van der Waerden's) are each regressed on powers of those of the
    controls, more of them the more models there are, which leaves a and b. Their T, the generalised covariance measure
    (Shah and Peters 2020), is compared with that of simulated pools in which t and s have only the controls in common,

    .. math:: T = \frac{\sum_i a_i b_i}{\sqrt{\sum_i a_i^2 b_i^2}}, \quad
              p = 2 \min\left(\frac{1 + \#\{T^* \ge T\}}{1 + B}, \frac{1 + \#\{T^* \le T\}}{1 + B}\right).

    A correlation would be off where the errors of both columns are large for the same models, which ranks make so at
    the bottom of a bent effect (7 to 8% instead of 5 with 50 and 100 models). Fewer than 50 models are compared by it
    all the same: so few products tell their variance at the cost of a fifth of the power.

    Each simulated pool keeps the order of the models in every control, draws its distances anew (sorted normal numbers,
    at the mid-ranks), adds independent normal errors of the sizes found, and ranks again. A t distribution or permuted
    residuals would know the distances: ranks bend the line on which a strong control lies, both columns in the same
    way, and that looks like an association (docs/statistics.md has the rates).
    A control that is measured with noise cannot be controlled for: what the noise hides stays in both columns. Numbers
    do not tell a train loss from a learning rate, so only a caller can say which controls are ``measured``.
    Where every control is a label with several models each, ``stratified_tau`` is exact instead.

    Args:
        t: target values, (M,); NaN is missing.
        s: values of a measure, (M,).
        controls: name -> values, (M,) each; a DataFrame does too. Any increasing scale of a control is the same.
        method: kendall or spearman.
        measured: names of controls that are measured themselves, as a train loss; ``note`` says what that leaves.
        draws: simulated pools for p; 0 for none, p is NaN.
        seed: names them.

    Raises:
        UserError: without controls, for an unknown method, and for columns of different lengths.
    """
    if method not in ("kendall", "spearman"):
        raise UserError(f"method: '{method}' is not known", "choose kendall or spearman")
    names = tuple(str(name) for name in controls)
    if not names:
        raise UserError("controls: at least one is needed", "use association() without any")
    columns, of = [], []
    for name in controls:
        for column in numeric_columns(controls[name]):
            columns.append(column)
            of.append(str(name))
    (x, y, *z), _, note = complete(t, s, *columns)
    n = len(x)
    varying = [c for c in z if not constant(c)]
    fixed = [name for name in names if all(constant(c) for c, o in zip(z, of, strict=True) if o == name)]
    if fixed and n:
        note = joined(note, f"the same for all models: {', '.join(fixed)}")
    if noisy := [name for name in names if name in measured and name not in fixed]:
        note = joined(note, f"what the noise of {', '.join(noisy)} hides is not held fixed")
    reason = f"fewer than {MIN_MODELS} models" if n < MIN_MODELS else ""
    if not reason and (constant(x) or constant(y)):
        reason = "all models have the same value"
    if reason:
        return Partial(method, math.nan, math.nan, math.nan, n, names, joined(note, reason))
    gram = _gram([x, y, *varying], method)
    raw = float(gram[0, 1] / math.sqrt(gram[0, 0] * gram[1, 1]))
    value = float(_residual_cosine(gram[None])[0])
    if not math.isfinite(value):
        return Partial(method, math.nan, raw, math.nan, n, names, joined(note, "the controls leave nothing to compare"))
    p = _p_value(x, y, varying, draws, seed) if draws else math.nan
    if draws and not math.isfinite(p):
        note = joined(note, "too few models for so many controls: no p")
    return Partial(method, value, raw, p, n, names, note)


def numeric_columns(values: ArrayLike) -> list[Array]:
    """Return a column as it is when it is numeric, else one indicator for each of its levels; NaN stays missing."""
    column = pd.Series(np.asarray(values, dtype=object)).infer_objects()
    if column.map(lambda v: isinstance(v, int | float | np.number | np.bool_) or pd.isna(v)).all():
        return [pd.to_numeric(column.map(lambda v: np.nan if pd.isna(v) else float(v))).to_numpy(np.float64)]
    missing = column.isna().to_numpy()
    levels = sorted({str(v) for v in column[~missing]})
    # The last indicator follows from the others for mid-ranks, not for signs of pairs; the projection does not mind.
    chosen = levels if len(levels) > 2 else levels[:1]
    texts = column.map(str).to_numpy()
    return [np.where(missing, np.nan, (texts == level).astype(np.float64)) for level in chosen]


def _gram(columns: Sequence[Array], method: PartialMethod) -> Array:
    """Return inner products of the columns' vectors, (k, k)."""
    if method == "spearman":
        vectors = np.stack([ranks(c) for c in columns])
        vectors -= vectors.mean(1, keepdims=True)
    else:
        return _sign_gram([Ranked.of(c) for c in columns])
    return np.asarray(vectors @ vectors.T)


def _sign_gram(columns: Sequence[Ranked]) -> Array:
    """Return inner products of the columns' signs over ordered pairs, (k, k)."""
    gram = np.empty((len(columns), len(columns)))
    for i, a in enumerate(columns):
        gram[i, i] = len(a.codes) * (len(a.codes) - 1) - a.tied_with.sum()
        for j, b in enumerate(columns[:i]):
            gram[i, j] = gram[j, i] = 2 * plain_sums(a, b)[0]
    return gram


def _residual_cosine(gram: Array) -> Array:
    """Return cosines of the first two vectors' residuals given the others, (B, k, k) -> (B,); NaN without residuals."""
    a, b, c = gram[:, :2, :2], gram[:, :2, 2:], gram[:, 2:, 2:]
    residual = a - b @ np.linalg.pinv(c[0], rcond=1e-9, hermitian=True) @ b.transpose(0, 2, 1) if c.size else a
    scale = residual[:, 0, 0] * residual[:, 1, 1]
    small = (residual[:, 0, 0] <= 1e-9 * a[:, 0, 0]) | (residual[:, 1, 1] <= 1e-9 * a[:, 1, 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(small, np.nan, residual[:, 0, 1] / np.sqrt(scale))


def _normal_scores(x: Array) -> Array:
    return np.asarray(ndtri((ranks(x) - 0.5) / len(x)))


def _p_value(x: Array, y: Array, controls: Sequence[Array], draws: int, seed: int) -> float:
    """Return the two-sided p of "independent given the controls" (see ``partial``); NaN with too few models."""
    n, z = len(x), np.array([ranks(c) for c in controls]).reshape(len(controls), len(x))
    controlled = [_normal_scores(r) for r in z]
    design, basis = np.stack([np.ones(n), *controlled], axis=1), _basis(n, controlled)
    scores = np.stack([_normal_scores(x), _normal_scores(y)])
    effects, spread = _effects(scores, design)
    residuals = _residuals(scores, basis)
    if n - 1 - basis.shape[1] < 1 or ((residuals**2).sum(1) < 1e-9 * n).any():
        return math.nan
    statistic = _correlation if n < STUDENTIZED else _covariance
    observed = float(statistic(residuals[None])[0])
    g, above, below = np.random.default_rng([seed, n, 9]), 0, 0
    middle = _normal_scores(np.arange(n, dtype=np.float64))
    for rows in pieces(draws, n * (len(z) + 2)):
        apart = np.sort(g.normal(size=(rows, len(z), n)), axis=2)
        simulated = effects[0][None, :, None] + spread[None, :, None] * g.normal(size=(rows, 2, n))
        for k, r in enumerate(z):
            simulated += effects[k + 1][None, :, None] * _at(apart[:, k], r - 1)[:, None, :]
        ranked = np.empty_like(simulated)
        np.put_along_axis(ranked, np.argsort(simulated, axis=2), np.broadcast_to(middle, simulated.shape), axis=2)
        simulated_statistics = statistic(_residuals(ranked, basis))
        above += int((simulated_statistics >= observed - 1e-12).sum())
        below += int((simulated_statistics <= observed + 1e-12).sum())
    return min(1.0, 2 * float(p_of_hits(min(above, below), draws, exact=False)))


def _effects(scores: Array, design: Array) -> tuple[Array, Array]:
    """Return effects of a design on both columns, and the spread of what it leaves of each: (n, k) -> (k, 2), (2,).

    The squares of what is left are divided by n - 1 - rank, one less than usual, and by 1 at least.
    """
    effects = np.linalg.lstsq(design, scores.T, rcond=1e-6)[0]
    freedom = len(design) - 1 - np.linalg.matrix_rank(design, tol=1e-6)
    squares = ((scores - (design @ effects).T) ** 2).sum(1)
    return np.asarray(effects, np.float64), np.asarray(np.sqrt(squares / max(freedom, 1)), np.float64)


def _basis(n: int, controls: Sequence[Array]) -> Array:
    """Return an orthonormal basis of an intercept and powers of the controls, (n, k).

    With more models smaller bends are seen, and must be fitted.
    """
    for degree in range(min(3 + n // 25, DEGREE), 0, -1):
        powers = [c**k for c in controls for k in range(1, degree + 1)]
        # The square of two levels is one number.
        columns = np.stack([np.ones(n), *((p - p.mean()) / p.std() for p in powers if p.std() > 1e-9)], axis=1)
        vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
        independent = vectors[:, sizes > 1e-6 * sizes[0]]
        # Half of the models at least are left to tell the errors.
        if n - 1 - independent.shape[1] >= n / 2:
            break
    return np.asarray(independent)


def _at(values: Array, place: Array) -> Array:
    """Return the values at the models' places, (B, n): between two of them at a mid-rank."""
    low = np.floor(place).astype(np.int64)
    high = np.ceil(place).astype(np.int64)
    return np.asarray((values[:, low] + values[:, high]) / 2)


def _residuals(scores: Array, basis: Array) -> Array:
    """Return what a basis of the controls, (n, k), leaves of scores, (..., n)."""
    return np.asarray(scores - (scores @ basis) @ basis.T)


def _correlation(residuals: Array) -> Array:
    """Return the correlation of both columns, (B, 2, n) -> (B,)."""
    squares = (residuals**2).sum(2)
    return np.asarray((residuals[:, 0] * residuals[:, 1]).sum(1) / np.sqrt(squares[:, 0] * squares[:, 1]))


def _covariance(residuals: Array) -> Array:
    """Return the generalised covariance measure T of both columns (see ``partial``), (B, 2, n) -> (B,)."""
    products = residuals[:, 0] * residuals[:, 1]
    return np.asarray(products.sum(1) / np.sqrt((products**2).sum(1)))


def confounds(
    measures: pd.DataFrame,
    attributes: pd.DataFrame,
    *,
    method: Method = "tau_b",
    resamples: int = 9999,
    permutations: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how each measure goes with each attribute: learning rate, train loss, norm of the weights.

    A measure that ranks models as the learning rate does says what the learning rate says. A model that
    lacks an attribute leaves that attribute's rows only; ``n`` counts the models of each row.

    Args:
        measures: one column a definition, one row a model.
        attributes: one column an attribute, the same rows; booleans and labels of two levels are ranked, labels
            of more levels have no order and get a note instead of a number.
        method: of ``association``; tau-b, since hyperparameters have many ties.
        resamples: for the interval.
        permutations: for p.
        seed: names both.

    Returns:
        Columns measure, attribute, n, value, low, high, p, note; a row a pair.

    Raises:
        UserError: when the tables have different models.
    """
    if not measures.index.equals(attributes.index):
        raise UserError(
            "measures and attributes: must have the same models in the same order", "reindex one by the other"
        )
    rows: list[dict[str, Any]] = []
    for attribute in attributes.columns:
        columns = numeric_columns(attributes[attribute].to_numpy(dtype=object))
        for measure in measures.columns:
            if len(columns) != 1:
                n = int((measures[measure].notna() & attributes[attribute].notna()).sum())
                relation = Association(method, NAN, NAN, NAN, NAN, n, 0, f"{len(columns)} labels without an order")
            else:
                relation = association(
                    columns[0], measures[measure], method, resamples=resamples, permutations=permutations, seed=seed
                )
            rows.append(
                {"measure": measure, "attribute": attribute, "n": relation.n, "value": relation.value,
                 "low": relation.low, "high": relation.high, "p": relation.p, "note": relation.note}
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["measure", "attribute", "n", "value", "low", "high", "p", "note"])
