"""What a measure says along one training, whose checkpoints are no independent models, and across several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acutance.analysis.kendall import kendall_tau
from acutance.analysis.machinery.columns import Array

LEVELS = 5  # losses at which trainings are compared


@dataclass(frozen=True)
class Along:
    """Tau of two columns along the checkpoints of one training.

    Attributes:
        tau: of the values, tau-a.
        p: of circular shifts, two-sided.
        changes: tau-a of the changes from each checkpoint to the next, in which a common trend counts nothing.
        n: checkpoints.
    """

    tau: float
    p: float
    changes: float
    n: int


def along(t: Array, s: Array) -> Along:
    r"""Return tau along a training, with a p-value that knows of the dependence of its checkpoints.

    Successive checkpoints are alike, so that two columns that merely drift agree in most pairs, and a p-value of free
    permutations is far too small. Here

    .. math:: p = \frac{\#\{k \in 0 \ldots n-1 : |\tau(t, s^{(k)})| \ge |\tau(t, s)|\}}{n}, \qquad
       s^{(k)}_i = s_{(i + k) \bmod n}

    shifts the one column against the other, which leaves the order within each: a conservative test for stationary
    columns, whose p is never below 1 / n. For columns with a trend read ``changes`` beside it.

    Args:
        t: target values in the order of the steps, (n,), finite.
        s: values of a measure, (n,), finite.
    """
    n = len(t)
    observed = _tau(t, s)
    shifted = [abs(_tau(t, np.roll(s, k))) for k in range(n)]
    reached = sum(tau >= abs(observed) - 1e-12 for tau in shifted)
    return Along(observed, reached / n, _tau(np.diff(t), np.diff(s)) if n > 2 else math.nan, n)


def _tau(t: Array, s: Array) -> float:
    return kendall_tau(t, s, resamples=0, permutations=0).tau


def common_levels(losses: Sequence[Array], count: int = LEVELS) -> NDArray[np.float64]:
    """Return losses that every training passes, the highest first: evenly on a logarithmic axis, without the ends.

    Args:
        losses: of each training in the order of its steps, all positive and finite.
        count: how many.

    Returns:
        (count,), or (0,) where no loss is common to all.
    """
    high = min(float(loss[0]) for loss in losses)
    low = max(float(loss.min()) for loss in losses)
    if not 0 < low < high:
        return np.zeros(0)
    inner = np.linspace(math.log(high), math.log(low), count + 2)[1:-1]
    return np.exp(inner)


def at_loss(loss: Array, columns: Mapping[str, Array], level: float) -> dict[str, float]:
    """Return columns where a training's loss first falls to a level, between checkpoints by the logarithm of the loss.

    Args:
        loss: in the order of the steps, (n,), positive; it begins above the level and gets below.
        columns: values beside it, (n,) each.
        level: of the loss.
    """
    i = int(np.argmax(loss <= level))
    if i == 0:
        return {name: float(values[0]) for name, values in columns.items()}
    above, below = math.log(loss[i - 1]), math.log(loss[i])
    share = (above - math.log(level)) / (above - below)
    return {name: float(values[i - 1] + share * (values[i] - values[i - 1])) for name, values in columns.items()}
