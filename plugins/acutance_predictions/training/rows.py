"""Columns of a training log, by epochs and at any place between its rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.io.training_log import TrainingLog

EPOCH = "epoch"
ROUNDING = 1e-6  # of an epoch


def mean(values: Sequence[float]) -> float:
    """Return the mean, the same in every order."""
    return math.fsum(values) / len(values)


def grouped(places: Iterable[float], values: Iterable[float]) -> dict[float, float]:
    """Return the mean of the values at each place, in the order of the places."""
    found: dict[float, list[float]] = {}
    for place, value in zip(places, values, strict=True):
        found.setdefault(place, []).append(value)
    return {place: mean(several) for place, several in found.items()}


def by_epoch(log: TrainingLog, name: str, last: int | None) -> list[float]:
    """Return a column epoch by epoch, the mean of each, or of the last ones; a row each where no epochs are known.

    Raises:
        Unsupported: without such a column, with a gap in it, without rows, with epochs that fall or are left out, or
            with fewer epochs.
    """
    rows = log.column(name)
    # Epoch 3 of a log of steps is what lies above 2 and up to 3; a sum of fractions ends a little beside it.
    ends = [math.ceil(epoch - ROUNDING) for epoch in log.column(EPOCH)] if EPOCH in log.columns else range(len(rows))
    if not ends:
        raise Unsupported("the log of this model's training has no rows")
    if any(after < before for before, after in pairwise(ends)):
        raise Unsupported(f"column '{EPOCH}' of the log of this model's training falls from one row to the next")
    found = grouped(ends, rows)
    left_out = [before + 1 for before, after in pairwise(list(found)[-(last or 0) :]) if after > before + 1]
    if left_out:
        raise Unsupported(f"the log of this model's training has no row of epoch {left_out[0]:g}")
    values = list(found.values())
    if last is not None and last > len(values):
        raise Unsupported(f"the log of this model's training has {len(values)} epochs, fewer than the last {last}")
    return values if last is None else values[-last:]


def interpolated(log: TrainingLog, name: str, places: str, at: float) -> float:
    """Return a column at a place, linearly between its rows; rows at one place count with their mean.

    Raises:
        Unsupported: without such columns, with gaps in them, for places that fall, or a place outside of the log.
    """
    found = grouped(log.column(places), log.column(name))
    if any(after < before for before, after in pairwise(found)):
        raise Unsupported(f"column '{places}' of the log of this model's training falls from one row to the next")
    if not found or not min(found) <= at <= max(found):
        span = f"goes from {places} {min(found):g} to {max(found):g}, not to {at:g}" if found else "has no rows"
        raise Unsupported(f"the log of this model's training {span}")
    if at in found:
        return found[at]
    (x0, y0), (x1, y1) = next((a, b) for a, b in pairwise(found.items()) if a[0] < at < b[0])
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
