"""What training wrote down, a row a step or an epoch: CSV or JSON lines, as pools and users keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        texts: the first cell that is no number of each other column, and its row, counted from 1.
    """

    columns: Mapping[str, tuple[float, ...]]
    texts: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def column(self, name: str) -> tuple[float, ...]:
        """Return a column that has a number in every row; ``columns`` has those with gaps too.

        Raises:
            Unsupported: naming the columns that there are, or the first row without a number.
        """
        if name in self.texts:
            row, cell = self.texts[name]
            raise Unsupported(
                f"the log of this model's training has '{cell}' in row {row} of '{name}': it is no number"
            )
        if name not in self.columns:
            hint = did_you_mean(name, list(self.columns))
            raise Unsupported(f"the log of this model's training has no column '{name}' ({hint})")
        values = self.columns[name]
        if gaps := [row for row, value in enumerate(values) if math.isnan(value)]:
            step = f"{self.columns[STEP][gaps[0]]:g}"
            raise Unsupported(
                f"the log of this model's training has no number in row {gaps[0] + 1} (step {step}) of '{name}': fill "
                "the cell, or leave the row out"
            )
        return values

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.columns[STEP])

    @property
    def digest(self) -> str:
        """What enters keys: the sha256 of all numbers."""
        return digest({name: [None if math.isnan(v) else v for v in values] for name, values in self.columns.items()})


def read_training_log(path: Path) -> TrainingLog:
    """Read a log: one row a step, a column ``step`` that grows, further columns of numbers.

    A column of texts harms nobody who does not read it.

    Raises:
        UserError: for a file that is not there, is no table, or has no such column.
    """
    from acutance.io.tables import read_table

    table, _ = read_table(path, "step")
    if STEP not in table.columns:
        raise UserError(f"{path}: the log has no column '{STEP}'", did_you_mean(STEP, list(map(str, table.columns))))
    columns: dict[str, tuple[float, ...]] = {}
    texts: dict[str, tuple[int, str]] = {}
    for name in map(str, table.columns):
        numbers, text = _numbers(table[name].tolist())
        if numbers is not None:
            columns[name] = numbers
        elif text is not None:
            texts[name] = text
    steps = columns.get(STEP, (math.nan,))
    if any(not later > step for step, later in pairwise(steps)) or any(map(math.isnan, steps)):
        raise UserError(f"{path}: '{STEP}' must be numbers that grow from row to row", "sort the rows, drop repeats")
    if infinite := [name for name, values in columns.items() if any(map(math.isinf, values))]:
        raise UserError(f"{path}: column '{infinite[0]}' has an infinite value", "leave the cell empty")
    return TrainingLog(columns, texts)


def _numbers(cells: list[Any]) -> tuple[tuple[float, ...], None] | tuple[None, tuple[int, str]]:
    """Return a column as numbers, NaN for empty cells; or the first cell that is no number, and its row."""
    numbers = []
    for row, cell in enumerate(cells, 1):
        try:
            numbers.append(math.nan if cell is None or cell == "" else float(cell))
        except (TypeError, ValueError):
            return None, (row, str(cell))
    return tuple(numbers), None
