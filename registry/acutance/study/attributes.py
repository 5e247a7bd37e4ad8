"""Attributes of models that come from outside their pool: a CSV file, a table, a dictionary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from acutance.errors import UserError, did_you_mean
from acutance.io.cells import is_name, is_number
from acutance.io.delimited import read_delimited
from acutance.pool import Attribute
from acutance.study.targets import AttributeTarget

if TYPE_CHECKING:
    import pandas as pd

    from acutance.run.members import Member
    from acutance.study.config import Study

Attributes: TypeAlias = "str | Path | Mapping[str, Mapping[str, Any]] | pd.DataFrame"
Table = dict[str, dict[str, Attribute]]

NAMES = ("model", "id")  # columns that name the model, in order of preference


def join(members: Sequence[Member], source: Attributes) -> list[str]:
    """Give every model its attributes from a source, and return what a reader should know.

    Models are named by their label, or by their id in the pool where that is unique. Attributes that a pool
    already gives are replaced. They are no part of any key: joining them recomputes nothing.

    Args:
        members: the models of a study; changed in place.
        source: a CSV file or a table with a column ``model`` or ``id`` (or models as the index), or
            ``{model: {name: value}}``. An empty field is a missing value.

    Raises:
        UserError: for a file that is not such a table, a model named twice, or no model in common.
    """
    from acutance.io.spreadsheet import unescaped

    notes: list[str] = []
    where, table = read(source, notes)
    by_name = _by_name(members)
    # A name copied from a table of ours may have an apostrophe in front that keeps it from being a formula.
    named = {name: name if name in by_name else unescaped(name) for name in table}
    unknown = [name for name in table if named[name] not in by_name]
    matched = {name: by_name[named[name]] for name in table if named[name] in by_name}
    if not matched:
        raise UserError(
            f"{where}: none of its models is in the study, e.g. {_first(unknown, 2)}",
            "the study's models are: " + _first([member.label for member in members]),
        )
    seen: dict[str, str] = {}
    for name, member in matched.items():
        if member.label in seen:
            raise UserError(f"{where}: '{seen[member.label]}' and '{name}' are the same model", "keep one row of them")
        seen[member.label] = name
    for name, member in matched.items():
        member.add_attributes(table[name])
    if unknown:
        notes.append(f"{where}: {len(unknown)} rows name no model of the study: {_first(unknown)}")
    without = [member.label for member in members if member.label not in seen]
    if without:
        notes.append(f"{where}: {len(without)} models have no row: {_first(without)}")
    replaced = {
        attribute: None
        for member in matched.values()
        for attribute, value in member.joined.items()
        if member.entry.attributes.get(attribute, value) != value
    }
    if replaced:
        notes.append(f"{where}: replaces attributes of the pool: {_first(list(replaced))}")
    return notes


def require(study: Study, members: Sequence[Member]) -> None:
    """Refuse names of attributes that no model has, before anything is computed.

    Raises:
        UserError: naming the section and the nearest attribute.
    """
    known = {name: None for member in members for name in member.attributes}
    columns = ("model", "pool", "architecture", "train_set", "parameters")
    named = [("targets", target) for target in study.targets] + [("admit", target) for target, _ in study.admit]
    wanted = [(section, target.attribute) for section, target in named if isinstance(target, AttributeTarget)]
    for section, names in (("groups", study.file.groups), ("within", study.file.within)):
        wanted += [(section, name) for name in names if name not in columns]
    for section, names in study.file.figures.names.items():
        drawn = (*columns, *(f"target.{target.name}" for target in study.targets), *(f"attr.{name}" for name in known))
        wanted += [(section, name) for name in names if name not in drawn]
    for section, name in wanted:
        if name not in known:
            raise UserError(f"{section}: no model has '{name}'", did_you_mean(name, [*known, *columns]))


def read(source: Attributes, notes: list[str] | None = None) -> tuple[str, Table]:
    """Return (what to call the source, {model: {attribute: value}}), without missing values.

    Args:
        source: as ``join`` takes it.
        notes: gets what a reader should know of how a file was read.

    Raises:
        UserError: as ``join``.
    """
    if isinstance(source, str | Path):
        return str(source), _read_csv(Path(source), [] if notes is None else notes)
    if isinstance(source, Mapping):
        rows: Iterable[tuple[Any, Mapping[Any, Any]]] = source.items()
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):
        name = next((n for n in NAMES if n in source.columns), None)
        frame = source.drop(columns=[name]) if name else source
        ids = source[name] if name else source.index
        rows = zip(ids, frame.to_dict("records"), strict=True)
    else:
        raise UserError(f"attributes: {type(source).__name__} is not understood", "give a CSV file, a table or a dict")
    table: Table = {}
    for model, fields in rows:
        if not isinstance(fields, Mapping):
            raise UserError(f"attributes: '{model}' has {type(fields).__name__}", "write {model: {name: value}}")
        plain = {str(name): _plain(value, f"attributes: '{model}'.{name}") for name, value in fields.items()}
        _add(table, str(model), plain, "attributes")
    return "attributes", table


def _read_csv(path: Path, notes: list[str]) -> Table:
    found = read_delimited(path, "give a CSV file with a column 'model' or 'id'").with_points(str(path))
    header = found.header
    notes += found.notes
    column = next((name for name in NAMES if name in header), None)
    if column is None:
        raise UserError(f"{path}: has no column 'model' or 'id'", f"its columns are: {_first(header) or 'none'}")
    table: Table = {}
    for number, row in found.rows:
        fields = dict(zip(header, row, strict=True))
        model = fields.pop(column)
        if not model:
            raise UserError(f"{path}: line {number} names no model", f"fill its column '{column}'")
        _add(table, model, {name: parse_field(text) for name, text in fields.items()}, str(path))
    if not table:
        raise UserError(f"{path}: has no rows")
    return table


def _add(table: Table, model: str, fields: Mapping[str, Attribute], where: str) -> None:
    if model in table:
        raise UserError(f"{where}: model '{model}' is there twice", "keep one row for each model")
    table[model] = {name: value for name, value in fields.items() if value is not None}


def parse_field(text: str) -> Attribute:
    """Return the value of a field: a truth value, a number or the text itself; None for an empty one.

    >>> parse_field("1e-3"), parse_field("TRUE"), parse_field("007"), parse_field("5e400")
    (0.001, True, '007', '5e400')
    """
    if text.lower() in ("", "nan"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if not is_number(text) or is_name(text):
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _plain(value: Any, where: str) -> Attribute:
    """Return a value as a plain scalar; None for a missing one."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(f"{where}: {type(value).__name__} is not a number, truth value or text")
    return value


def _by_name(members: Sequence[Member]) -> dict[str, Member]:
    times = Counter(member.entry.id for member in members)
    found = {member.entry.id: member for member in members if times[member.entry.id] == 1}
    return found | {member.label: member for member in members}


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (" ..." if len(names) > count else "")
