"""What a monitor is asked for, read and checked: which cells have which schedule, names and numbers of a step."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from acutance.errors import UserError
from acutance.monitor.record import RESERVED, Record
from acutance.monitor.schedule import Schedule, schedule_of
from acutance.plugins import catalog
from acutance.pool import Attribute
from acutance.run.members import Member, PlannedCell
from acutance.spec import digest
from acutance.study.plan import expand_measures


@dataclass(frozen=True)
class Part:
    """What has one schedule."""

    schedule: Schedule
    cells: list[PlannedCell]


def scheduled(
    sections: list[dict[str, Any]], every: Schedule
) -> tuple[list[dict[str, Any]], list[tuple[Schedule, list[int]]]]:
    """Return the sections of measures without their schedules, and each schedule with the places of its sections."""
    schedules: list[tuple[Schedule, list[int]]] = []
    plain = []
    for i, section in enumerate(sections):
        own = section.pop("every", None)
        schedule = every if own is None else schedule_of(own, f"measures.{i}.every")
        same = next((places for other, places in schedules if other == schedule), None)
        if same is None:
            schedules.append((schedule, same := []))
        same.append(i)
        plain.append(section)
    return plain, schedules


def plan_of(
    record: Record, sections: Sequence[Mapping[str, Any]], schedules: Sequence[tuple[Schedule, list[int]]]
) -> list[Part]:
    """Return the planned cells by their schedules; a cell of two goes with both."""
    splits, own = tuple(record.sets.dataset.splits), record.study.surface.split
    parts = []
    for schedule, places in schedules:
        planned, _, _ = expand_measures([sections[i] for i in places], catalog(), splits, own)
        parts.append(Part(schedule, [cell for cell in record.measures if cell.planned in planned]))
    return parts


def require_name(run: str) -> None:
    """Refuse what cannot be the name of a training in tables.

    Raises:
        UserError: saying what can.
    """
    if not isinstance(run, str) or not re.fullmatch(r"[\w.+= -]+", run):
        raise UserError(f"run: {run!r} is no plain name", "use letters, digits, and _ . - + =")


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Attribute]:
    """Return attributes as a table takes them.

    Raises:
        UserError: for a name that rows have already, and for something else than a number or text.
    """
    found: dict[str, Attribute] = {}
    for name, value in attributes.items():
        if name in RESERVED:
            raise UserError(f"attributes: '{name}' is what every row has already", "choose another name")
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, bool | int | float | str | None):
            raise UserError(f"attributes: '{name}' is {type(value).__name__}", "give a number or a text")
        found[str(name)] = value
    return found


def as_numbers(logged: Mapping[str, Any], tell: Callable[[UserError], None]) -> dict[str, Attribute]:
    """Return what was logged as plain numbers; of what is none it is told, and left out."""
    found: dict[str, Attribute] = {}
    for name, value in logged.items():
        try:
            found[name] = as_number(value, name)
        except UserError as error:
            tell(error)
    return found


def as_number(value: Any, name: str) -> Attribute:
    """Return what was logged as a plain number.

    Raises:
        UserError: for what is none.
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1:
        value = value.item()
    if name in RESERVED or not isinstance(value, bool | numbers.Real | str | None):
        raise UserError(f"'{name}' cannot be logged: it is {type(value).__name__}", "log single numbers")
    if isinstance(value, bool | str | None):
        return value
    number = float(value)
    return (int(number) if number.is_integer() and abs(number) < 1e15 else number) if math.isfinite(number) else None


def key_without_model(member: Member, model: Any) -> str:
    """Return the key of a step whose model could not be opened, so that nobody knows its tensors."""
    return digest(["not opened", member.label, type(model).__name__])
