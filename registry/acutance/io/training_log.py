"""What training wrote down, a row a step or an epoch: CSV or JSON lines, as pools and users keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from acutance.errors import Unsupported, UserError, did_you_mean
from acutance.spec import digest

STEP = "step"


@dataclass(frozen=True)
class TrainingLog:
    """The columns of a log, in the order of its rows.

    Attributes:
        columns: numbers by name, all of one length; NaN where a row has none. ``step`` is one of them.
    """

    columns: Mapping[str, tuple[float, ...]]

    def column(self, name: str) -> tuple[float, ...]:
        """Return a column.

        Raises:
            Unsupported: naming the columns that there are.
        """
        if name not in self.columns:
            hint = did_you_mean(name, list(self.columns))
            raise Unsupported(f"the log of this model's training has no column '{name}' ({hint})")
        return self.columns[name]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.columns[STEP])

    @property
    def digest(self) -> str:
        """What enters keys: the sha256 of all numbers."""
        return digest({name: [None if math.isnan(v) else v for v in values] for name, values in self.columns.items()})


def read_training_log(path: Path) -> TrainingLog:
    """Read a log: one row a step, a column ``step`` that grows, further columns of numbers; others are passed over.

    Raises:
        UserError: for a file that is not there, is no table, or has no such column.
    """
    from acutance.io.tables import read_table

    table, _ = read_table(path)
    if STEP not in table.columns:
        raise UserError(f"{path}: the log has no column '{STEP}'", did_you_mean(STEP, list(map(str, table.columns))))
    columns = {str(name): numbers for name in table.columns if (numbers := _numbers(table[name].tolist())) is not None}
    steps = columns.get(STEP, (math.nan,))
    if any(not later > step for step, later in pairwise(steps)) or any(map(math.isnan, steps)):
        raise UserError(f"{path}: '{STEP}' must be numbers that grow from row to row", "sort the rows, drop repeats")
    if infinite := [name for name, values in columns.items() if any(map(math.isinf, values))]:
        raise UserError(f"{path}: column '{infinite[0]}' has an infinite value", "leave the cell empty")
    return TrainingLog(columns)


def _numbers(cells: list[Any]) -> tuple[float, ...] | None:
    """Return a column as numbers, NaN for empty cells; None where some cell is no number."""
    try:
        return tuple(math.nan if cell is None or cell == "" else float(cell) for cell in cells)
    except (TypeError, ValueError):
        return None
