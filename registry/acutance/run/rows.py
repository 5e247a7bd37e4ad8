"""What a store holds, as its rows are known in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acutance.measure import Estimate


@dataclass(frozen=True)
class CellRow:
    """What identifies a cell, apart from its key."""

    key: str
    model: str
    measure: str
    version: int
    spec: Mapping[str, Any]
    split: str
    replicate: int


@dataclass(frozen=True)
class PartRow:
    """The value of a cell on one batch."""

    key: str
    cell: str
    batch: int
    estimate: Estimate


@dataclass(frozen=True)
class Attempt:
    """What one batch of one family took.

    Attributes:
        run: number of the run.
        model: key of the model.
        measure: canonical id.
        split: where the points are from.
        batch: index of the set of points.
        cells: how many of them it was.
        device: where it was computed.
        seconds: on the clock.
        forwards, backwards, hvps: passes in examples.
        error: why there is no value.
    """

    run: int
    model: str
    measure: str
    split: str
    batch: int
    cells: int
    device: str
    seconds: float
    forwards: float
    backwards: float
    hvps: float
    error: str = ""


@dataclass(frozen=True)
class CellState:
    """What a store knows of a cell.

    Attributes:
        failed: whether it could not be computed, which another run may try again.
        spec: all settings of the measure, as they were.
        estimate: the value, or the reason.
    """

    failed: bool
    spec: dict[str, Any]
    estimate: Estimate
