"""Tables made elsewhere, as the two tables that the statistics are computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.definitions import definition, numeric_radii
from acutance.analysis.tables import label_text
from acutance.errors import UserError, did_you_mean
from acutance.io.cells import counts, is_empty, is_missing, is_name, is_number, like_number, plain_numbers

OWN = ("pool", "architecture", "train_set")  # columns of models that are no attributes, as in the tables of a run
INDEX = ("index", "level_0", "row", "#")  # what row numbers are called when a table was written with them
CARRIED = ("replicate", "stderr", "status", "message")  # of a long table, where it has them
STATUSES = ("ok", "not_converged", "nonfinite", "unsupported", "budget", "failed")  # of measure.Status


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are.

    Attributes:
        targets: to be predicted.
        measures: that are to predict them; in a wide table by default every column of numbers that is nothing else.
        model: the models' names; the row's number by default.
        long: the columns that name the measure and hold its value, of a table with a row for each model and measure.
        groups: whose values form subgroups.
        within: models are compared only where these agree.
        attributes: further facts about models, as confounds and for figures; by default what remains.
        figures: attributes that are seen as ``colour``, ``marker`` and ``size``.
    """

    targets: Sequence[str]
    measures: Sequence[str] = ()
    model: str | None = None
    long: tuple[str, str] | None = None
    groups: Sequence[str] = ()
    within: Sequence[str] = ()
    attributes: Sequence[str] | None = None
    figures: Mapping[str, Sequence[str]] = field(default_factory=dict)


def as_run(table: pd.DataFrame, columns: Columns, pool: str = "table") -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return a table as (models, results), which all statistics take, and notes on what was left out.

    A measure whose column is called ``worst_case(rho=0.1, norm=linf)`` is one definition of ``worst_case`` with these
    settings, as targets spell them; so are rows of a long table with columns ``spec.rho``, ``spec.norm``.

    Args:
        table: one row a model, or one a model and measure.
        columns: what its columns are.
        pool: where the models are from, for tables and report; a column ``pool`` says it for each.

    Raises:
        UserError: for a column that is not there or not of numbers, for two models of one name, and for a long table
            in which a model has a measure twice, or several values of a target.
    """
    if not columns.targets:
        raise UserError("give at least one target and one measure", listed(table))
    if columns.long is not None and (columns.model is None or columns.measures):
        raise UserError("--long: give two columns, MEASURE,VALUE, and --model, without --measures")
    for column_names, option in _named(columns).items():
        require(table, column_names, option)
    _refuse_two_roles(columns)
    notes: list[str] = []
    table = _without_nested(table, columns, notes)
    named_rows(table, columns.model, "--model", "model")
    if columns.long is None:
        wide, measured = table, None
    else:
        wide, measured = _split_long(table, columns, notes)
        if both := [name for name in columns.targets if (measured["measure"] == name).any()]:
            raise UserError(f"--long: '{both[0]}' is a measure and a target", "call one of them something else")
    labels = _labels(wide, columns.model)
    if measured is None:
        names: Sequence[str] = columns.measures or _numbers_left(wide, columns, notes)
        if not names:
            raise UserError("; ".join(["give at least one target and one measure", *notes]), listed(table))
        measured = numeric_radii(_measured(wide, names, labels), "--measures")
    else:
        names = ()
    notes += [
        note for name in (*columns.targets, *names, *(columns.long or ())[1:]) if (note := _no_values(table, name))
    ]
    models = _models(wide, columns, labels, pool, names)
    fields = [c for c in measured.columns if c.startswith("spec.")]
    order = ["model", "measure", *fields, "replicate", "value", "stderr", "status", "message"]
    pools = measured["model"].map(dict(zip(models["model"], models["pool"], strict=True)))
    results = measured[order]
    results.insert(1, "pool", pools)
    return models, results, notes


def _without_nested(table: pd.DataFrame, columns: Columns, notes: list[str]) -> pd.DataFrame:
    """Return a table without columns of lists or mappings, as JSON may have them, which nobody asks for.

    Raises:
        UserError: for one that has a role, naming its first such row.
    """
    option_of = {name: option for names, option in _named(columns).items() for name in names}
    nested = {}
    for name in (name for name in table.columns if table[name].dtype.kind == "O"):
        row = next((row for row, cell in enumerate(table[name], 1) if not pd.api.types.is_scalar(cell)), 0)
        if row and name in option_of:
            kind = type(table[name].iloc[row - 1]).__name__
            raise UserError(
                f"{option_of[name]}: row {row} of column '{name}' holds a {kind}", "a cell is a number or a text"
            )
        if row:
            nested[name] = row
    notes += [f"column '{name}' holds lists or mappings (row {row}) and is left out" for name, row in nested.items()]
    return table.drop(columns=list(nested))


def _refuse_two_roles(columns: Columns) -> None:
    """Refuse a column that would be held against itself: its tau of 1 says nothing.

    Raises:
        UserError: naming it, and both options.
    """
    others = {
        "--measures": columns.measures, "--groups": columns.groups, "--within": columns.within,
        "--attributes": columns.attributes or (), "--long": columns.long or (),
    }  # fmt: skip
    for option, names in others.items():
        if both := [name for name in names if name in columns.targets]:
            raise UserError(f"{option}: column '{both[0]}' is a target too", "a column is one or the other")
    if both := [name for name in columns.attributes or () if name in columns.measures]:
        raise UserError(f"--attributes: column '{both[0]}' is a measure too", "a column is one or the other")


def _named(columns: Columns) -> dict[tuple[str, ...], str]:
    """Return names of columns that must be there, by the option that gives them."""
    option_of: dict[tuple[str, ...], str] = {
        tuple(columns.targets): "--targets", tuple(columns.measures): "--measures",
        (*columns.groups, *columns.within): "--groups, --within", tuple(columns.attributes or ()): "--attributes",
    }  # fmt: skip
    if columns.model is not None:
        option_of[(columns.model,)] = "--model"
    if columns.long is not None:
        option_of[columns.long] = "--long"
    for option, names in columns.figures.items():
        option_of[tuple(names)] = f"--{option}"
    return option_of


def require(table: pd.DataFrame, names: Sequence[str], option: str) -> None:
    """Refuse names that are no columns.

    Raises:
        UserError: naming the nearest one that is.
    """
    for name in names:
        if name not in table.columns:
            raise UserError(f"{option}: the table has no column '{name}'", did_you_mean(name, list(table.columns)))


def listed(table: pd.DataFrame) -> str:
    """Return the columns of a table by what they hold, for a message."""
    numeric = [name for name in table.columns if _is_numeric(table[name])]
    texts = [name for name in table.columns if name not in numeric]
    kinds = {"numbers": numeric, "other columns": texts}
    return "name their columns; " + "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)


def named_rows(table: pd.DataFrame, column: str | None, option: str, thing: str) -> None:
    """Refuse a row without a name.

    Raises:
        UserError: naming the first one.
    """
    if column is not None and (without := table[column].isna() | (table[column].astype(str).str.strip() == "")).any():
        row = without.to_numpy().argmax() + 1
        raise UserError(f"{option}: row {row} names no {thing}", f"fill its column '{column}', or delete the row")


def _labels(table: pd.DataFrame, model: str | None) -> pd.Series:
    labels = table[model].astype(str) if model else pd.Series([str(i) for i in range(len(table))], index=table.index)
    if labels.duplicated().any():
        again = labels[labels.duplicated()].iloc[0]
        raise UserError(
            f"--model: more than one row is called '{again}'", "give every model a row and a name of its own"
        )
    return labels


def _split_long(table: pd.DataFrame, columns: Columns, notes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what a long table says of models, a row each, and of measures, a row for each model and measure."""
    model, (name, value) = str(columns.model), columns.long or ("", "")
    row_columns = [c for c in table.columns if c in CARRIED or c.startswith("spec.")]
    named_rows(table, name, "--long", "measure")
    rest = table.drop(columns=[name, value, *row_columns])
    differ = rest.groupby(model, sort=False, dropna=False).nunique(dropna=False).gt(1).any()
    for column in differ.index[differ]:
        if column in (*columns.targets, *columns.groups, *columns.within):
            one = rest.groupby(model, sort=False)[column].nunique(dropna=False)
            raise UserError(
                f"--long: model '{one.index[one > 1][0]}' has several values of '{column}'",
                "what is said of a model must be the same in all of its rows",
            )
        notes.append(f"column '{column}' differs between rows of one model and is left out")
    wide = rest.drop(columns=list(differ.index[differ])).drop_duplicates(subset=model).reset_index(drop=True)
    measured = pd.DataFrame({"model": table[model].astype(str)})
    parsed = [definition(text) for text in table[name].astype(str)]
    measured["measure"] = [measure for measure, _ in parsed]
    for setting in dict.fromkeys(key for _, settings in parsed for key in settings):
        measured[f"spec.{setting}"] = [settings.get(setting) for _, settings in parsed]
    for column in (c for c in row_columns if c.startswith("spec.")):
        measured[column] = typed(table[column]).to_numpy()
    measured = numeric_radii(measured, "--long")
    measured["replicate"] = typed(table["replicate"]).to_numpy() if "replicate" in row_columns else 0
    settings = [c for c in measured.columns if c.startswith("spec.")]
    twice = measured.duplicated(["model", "measure", "replicate", *settings])
    if twice.any():
        row = measured[twice].iloc[0]
        raise UserError(
            f"--long: model '{row['model']}' has measure '{row['measure']}' twice",
            "number repetitions in a column 'replicate', or average them before",
        )
    measured["value"] = numbers(table, value, "--long").to_numpy()
    if "stderr" in row_columns:
        measured["stderr"] = numbers(table, "stderr", "--long").to_numpy()
    for column in ("status", "message"):
        if column in row_columns:
            measured[column] = table[column].to_numpy()
    return wide, _with_status(measured)


def _measured(table: pd.DataFrame, names: Sequence[str], labels: pd.Series) -> pd.DataFrame:
    """Return the rows of the measures of a wide table, those of one column after those of the one before."""
    n, parsed = len(table), [definition(name) for name in names]
    rows: dict[str, Any] = {
        "model": np.tile(labels.to_numpy(dtype=object), len(names)),
        "measure": np.repeat(np.array([measure for measure, _ in parsed], dtype=object), n),
    }
    for key in dict.fromkeys(key for _, settings in parsed for key in settings):
        values = pd.Series([settings.get(key, math.nan) for _, settings in parsed])
        rows[f"spec.{key}"] = values.repeat(n).reset_index(drop=True)
    rows["replicate"] = 0
    rows["value"] = np.concatenate([numbers(table, name, "--measures").to_numpy(np.float64) for name in names])
    return _with_status(pd.DataFrame(rows))


def _with_status(measured: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns that a run's have: what is missing or infinite says so."""
    value = measured["value"].astype(float)
    if "status" not in measured:
        infinite = np.isinf(value)
        measured["status"] = np.where(value.isna(), "unsupported", np.where(infinite, "nonfinite", "ok"))
    elif strange := sorted(set(measured["status"].astype(str)) - set(STATUSES)):
        raise UserError(
            f"--long: column 'status' says '{strange[0]}'",
            f"it is one of {', '.join(STATUSES)}; else rename the column",
        )
    if "message" not in measured:
        measured["message"] = np.where(value.isna(), "no value in the table", "")
    if "stderr" not in measured:
        measured["stderr"] = np.nan
    return measured


def _numbers_left(table: pd.DataFrame, columns: Columns, notes: list[str]) -> tuple[str, ...]:
    """Return the columns of numbers throughout that are nothing else; what only looks so is told with its cell."""
    other_roles = {*OWN, *columns.targets, *columns.groups, *columns.within, *(columns.attributes or ()), columns.model}
    other_roles |= {name for names in columns.figures.values() for name in names}
    numeric = []
    for name in (str(column) for column in table.columns if column not in other_roles):
        if _is_numeric(table[name]):
            if name.lower() in INDEX and counts([str(value) for value in table[name]]):
                notes.append(f"column '{name}' counts the rows and is left out")
            else:
                numeric.append(name)
        elif (wrong := _no_number(table[name])) is not None:
            row, cell = wrong
            notes.append(f"column '{name}' is no measure: row {row} says '{cell}', which is no number")
    return tuple(numeric)


def _is_numeric(column: pd.Series) -> bool:
    """Whether a column is numbers throughout, empty cells aside; names like ``007`` are none."""
    if pd.api.types.is_numeric_dtype(column):
        return bool(column.dtype != bool)
    if plain_numbers(list(column)) is not None:
        return True
    cells = [cell for cell in column if not is_empty(cell)]
    return bool(cells) and all(is_number(c) and not is_name(c) if isinstance(c, str) else _is_plain(c) for c in cells)


def _is_plain(cell: Any) -> bool:
    return isinstance(cell, int | float | np.number) and not isinstance(cell, bool)


def _no_number(column: pd.Series) -> tuple[int, str] | None:
    """Return (row, cell) of the first cell that keeps a column from being numbers; None where none looks like one."""
    if column.dtype == bool or not any(not isinstance(c, str) or like_number(c) for c in column if not is_empty(c)):
        return None
    for row, cell in enumerate(column, 1):
        if not is_empty(cell) and not (
            is_number(cell) and not is_name(cell) if isinstance(cell, str) else _is_plain(cell)
        ):
            return row, str(cell)
    return None


def _no_values(table: pd.DataFrame, name: str) -> str:
    """Return a note on words that stand for missing numbers in a column."""
    words = [cell for cell in table[name] if isinstance(cell, str) and cell and is_missing(cell)]
    return f"column '{name}': {len(words)} cells say '{words[0]}' and count as missing" if words else ""


def typed(column: pd.Series) -> pd.Series:
    """Return a column of texts as numbers or truth values where it is so throughout; else the texts as they stand.

    Columns that have a type are as they are. An empty cell is NaN.
    """
    if pd.api.types.is_numeric_dtype(column) or not all(isinstance(cell, str) or is_empty(cell) for cell in column):
        return column
    cells = [cell if isinstance(cell, str) and cell else None for cell in column]
    there = [cell for cell in cells if cell is not None]
    values: list[Any]
    if there and all(cell in ("True", "False") for cell in there):
        values = [math.nan if cell is None else cell == "True" for cell in cells]
        return pd.Series(values, column.index, dtype=object if len(there) < len(cells) else bool, name=column.name)
    present = [cell for cell in there if not is_missing(cell)]
    if present and all(is_number(cell) and not is_name(cell) for cell in present):
        whole = len(present) == len(cells) and all(cell.lstrip("+-").isdigit() and len(cell) < 19 for cell in present)
        values = [
            math.nan if cell is None or is_missing(cell) else (int(cell) if whole else float(cell)) for cell in cells
        ]
        return pd.Series(values, column.index, dtype=np.int64 if whole else np.float64, name=column.name)
    return pd.Series(
        [math.nan if cell is None else cell for cell in cells], column.index, dtype=object, name=column.name
    )


def _models(
    table: pd.DataFrame, columns: Columns, labels: pd.Series, pool: str, measures: Sequence[str]
) -> pd.DataFrame:
    pools = table["pool"].where(table["pool"].notna(), pool).astype(str) if "pool" in table else pool
    models = pd.DataFrame({"model": labels, "pool": pools})
    for name in OWN[1:]:
        if name in table:
            models[name] = table[name]
    models = models.assign(admitted=True, reason="")
    used = {*OWN, *columns.targets, *measures, columns.model}
    remaining = [c for c in table.columns if c not in used]
    asked = [*columns.groups, *columns.within, *(name for names in columns.figures.values() for name in names)]
    attributes = remaining if columns.attributes is None else [*columns.attributes, *asked]
    for name in dict.fromkeys([*attributes, *asked]):
        if name in OWN:
            continue
        short = name.removeprefix("attr.")
        if f"attr.{short}" in models:
            raise UserError(f"columns '{short}' and 'attr.{short}' are one attribute", "rename one of them")
        models[f"attr.{short}"] = typed(table[name])
        if name in asked and (spelt := _spelling(table[name], models[f"attr.{short}"])) is not None:
            models[f"label.{short}"] = spelt
    for name in columns.targets:
        models[f"target.{name}"] = numbers(table, name, "--targets")
    return models


def _spelling(texts: pd.Series, values: pd.Series) -> pd.Series | None:
    """Return labels as they stand in the table where values would be spelt otherwise: ``1e-3``, ``01``, ``nan``."""
    if values.dtype == bool or not any(isinstance(cell, str) for cell in texts):
        return None
    spellings = {cell for cell in texts if isinstance(cell, str)}
    empty = "nan" if "nan" not in spellings else "(no value)"
    labels = texts.map(lambda cell: str(cell) if isinstance(cell, str) and cell else empty)
    # A file of texts that could be numbers is read back as numbers.
    ambiguous = not pd.api.types.is_numeric_dtype(values) and any(is_number(cell) for cell in spellings)
    same = values.map(label_text).tolist() == labels.tolist()
    return None if same and not ambiguous else labels


def numbers(table: pd.DataFrame, name: str, option: str) -> pd.Series:
    """Return a column as numbers, empty cells as NaN.

    Raises:
        UserError: naming the first cell that is none.
    """
    column = table[name]
    if pd.api.types.is_numeric_dtype(column):
        return column
    if (plain := plain_numbers(list(column))) is not None:
        return pd.Series(plain, column.index, name=name)
    values = []
    for row, cell in enumerate(column, 1):
        if is_empty(cell) or (isinstance(cell, str) and not cell.strip()):
            values.append(math.nan)
        elif isinstance(cell, str) and not is_number(cell.strip()):
            hint = "write it with a decimal point and without separators of thousands" if like_number(cell) else ""
            raise UserError(f"{option}: row {row} of column '{name}' is not a number: {cell!r}", hint)
        else:
            values.append(float(cell))
    return pd.Series(values, column.index, dtype=np.float64, name=name)
