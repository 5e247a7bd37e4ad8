r"""What it costs to choose a model by a measure without labels, on points whose labels are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acutance.analysis.ranking import jackknife_errors

Array = NDArray[np.float64]

ENUMERATED = 7  # models up to which all orders are gone through
DRAWN = 9999  # orders that are drawn for more
MIN_MODELS = 3
DIGITS = 12  # of errors, behind the point: what is beyond is rounding


def picks(badness: ArrayLike) -> Array:
    """Return the weights of the models that a measure chooses, (M,): the smallest value, ties in equal parts.

    A model without a finite value is not chosen; all weights are NaN where none has one.
    """
    x = np.asarray(badness, np.float64)
    x = np.where(np.isfinite(x), x, np.inf)
    if not np.isfinite(x).any():
        return np.full(len(x), np.nan)
    tied = x == x.min()
    return np.asarray(tied / tied.sum())


def regret(badness: ArrayLike, errors: ArrayLike, without: ArrayLike) -> tuple[float, float]:
    r"""Return :math:`e_{\hat m} - \min_m e_m`, the error of the chosen model less the least, and its standard error.

    The standard error is that of the difference between the two models, chosen and best as they are.

    Args:
        badness: (M,), of which the least is chosen.
        errors: (M,).
        without: (G, M), errors without one group of points each.
    """
    weights, best = picks(badness), int(np.argmin(errors))
    e, w = np.asarray(errors, np.float64), np.asarray(without, np.float64)
    error = jackknife_errors(((w - w[:, [best]]) @ weights)[None])
    return float(weights @ _excess(e)), float(error)


def _excess(errors: Array) -> Array:
    """Return errors less the smallest, (..., M): exactly 0 for all models that have it, so that means of them are."""
    return np.asarray(errors - errors.min(-1, keepdims=True))


def random_regret(errors: ArrayLike) -> float:
    """Return the mean regret of a model that is picked at random, over sets where errors are (S, M)."""
    return float(_excess(np.asarray(errors, np.float64)).mean())


@dataclass(frozen=True)
class Recommended:
    """The measure that cost least on labelled points.

    Attributes:
        measure: its name; empty where there is none.
        regret: mean over the sets.
        random: mean regret of a model that is picked at random.
        p: chance that among as many measures one ranks models that well by luck.
        why: one sentence where the choice is not better than luck; empty else.
    """

    measure: str
    regret: float
    random: float
    p: float
    why: str = ""


def recommended(badness: Mapping[str, Array], errors: Array, seed: int = 0, level: float = 0.05) -> Recommended:
    r"""Return the measure of the least mean regret over labelled sets, and whether that is better than luck.

    Luck is: the measures' values belong to other models. All orders of the models are tried (or 9999 drawn), the same
    for all sets and measures, so that sets that are alike and measures that say the same count once. What is compared
    is the mean over sets of Kendall's tau between measure and error with the largest of all measures', since the
    measure was chosen among them; a single pick could not be told from luck among fewer than 20 models.

    Args:
        badness: (S, M) for each measure, all finite.
        errors: (S, M).
        seed: names the orders.
        level: of the test.
    """
    models = errors.shape[1]
    random = random_regret(errors)
    if not badness:
        return Recommended("", math.nan, random, math.nan, "no measure has values on all labelled sets")
    names = list(badness)
    values = np.stack([badness[name] for name in names])
    costs = np.array([np.mean([picks(x) @ e for x, e in zip(v, _excess(errors), strict=True)]) for v in values])
    costs = costs.round(DIGITS)  # the same picks in another order are rounded otherwise
    taus = _mean_taus(values, errors, np.arange(models)[None])[:, 0]
    # Of equal regrets that of the better order; of equal orders the first.
    at = min(range(len(names)), key=lambda k: (costs[k], -taus[k]))
    if models < MIN_MODELS:
        why = f"{models} models are too few to tell a choice from luck"
        return Recommended(names[at], float(costs[at]), random, math.nan, why)
    orders = _orders(models, seed)
    largest = _mean_taus(values, errors, orders).max(0)
    hits = int((largest >= taus[at] - 1e-9).sum())
    p = hits / len(orders) if models <= ENUMERATED else (1 + hits) / (1 + len(orders))
    why = ""
    if not costs[at] < round(random, DIGITS):
        why = "it cost no less than a model picked at random"
    elif p >= level:
        why = f"its order of the models is not told from luck (p = {p:.2g})"
    return Recommended(names[at], float(costs[at]), random, p, why)


def _orders(models: int, seed: int) -> NDArray[np.int64]:
    if models <= ENUMERATED:
        return np.array(list(itertools.permutations(range(models))))
    g = np.random.default_rng([seed, models, 17])
    return g.permuted(np.tile(np.arange(models), (DRAWN, 1)), axis=1)


def _mean_taus(values: Array, errors: Array, orders: NDArray[np.int64]) -> Array:
    """Return the mean over sets of tau-b between each measure and the errors in other orders, (D, B)."""
    i, j = np.triu_indices(errors.shape[1], 1)
    total = np.zeros((len(values), len(orders)))
    for s, e in enumerate(errors):
        x = np.sign(values[:, s][:, i] - values[:, s][:, j])
        e_of = e[orders]
        y = np.sign(e_of[:, i] - e_of[:, j])
        scale = np.sqrt(np.abs(x).sum(1)[:, None] * np.abs(y).sum(1)[None])
        with np.errstate(invalid="ignore", divide="ignore"):
            total += np.where(scale > 0, x @ y.T / scale, 0.0)
    return np.asarray(total / len(errors))


@dataclass(frozen=True)
class LeftOut:
    """A choice of the measure that never saw the set that judges it.

    Attributes:
        set: the labelled set that was left out.
        measure: of the least mean regret on the others; several, in equal parts, where they tie.
        regret: of the model that it chooses on the set left out.
        random: regret of a model picked at random there.
    """

    set: str
    measure: tuple[str, ...]
    regret: float
    random: float


def leave_one_out(badness: Mapping[str, Array], errors: Array, sets: Sequence[str]) -> list[LeftOut]:
    """Return, for each labelled set, what the measure costs there that cost least on the others.

    Args:
        badness: (S, M) for each measure, all finite.
        errors: (S, M).
        sets: names of the S sets; fewer than two have no others.
    """
    if len(sets) < 2 or not badness:
        return []
    names = list(badness)
    costs = np.array(
        [[picks(x) @ e for x, e in zip(badness[name], _excess(errors), strict=True)] for name in names]
    )  # (D, S)
    found = []
    for s, name in enumerate(sets):
        others = np.delete(costs, s, axis=1).mean(1)
        chosen = np.flatnonzero(others <= others.min() + 1e-12)
        found.append(
            LeftOut(
                name, tuple(names[k] for k in chosen), float(costs[chosen, s].mean()), random_regret(errors[s]),
            )
        )  # fmt: skip
    return found
