"""Tables made elsewhere, as the two tables that the statistics are computed from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from acutance.errors import UserError, did_you_mean

OWN = ("pool", "architecture", "train_set")  # columns of models that are no attributes, as in the tables of a run
CARRIED = ("replicate", "stderr", "status", "message")  # of a long table, where it has them
STATUSES = ("ok", "not_converged", "nonfinite", "unsupported", "budget", "failed")  # of measure.Status
_SETTINGS = re.compile(r"^\s*([^()]+?)\s*\(([^()]*=[^()]*)\)\s*$")


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


def read_table(path: Path) -> pd.DataFrame:
    """Read a table: CSV, or TSV, Parquet, JSON (records) and JSON lines by their ending.

    Raises:
        UserError: when it is not there or not such a table.
    """
    readers = {
        ".tsv": lambda p: pd.read_csv(p, sep="\t"),
        ".parquet": pd.read_parquet,
        ".json": pd.read_json,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
    }
    try:
        table: pd.DataFrame = readers.get(path.suffix.lower(), pd.read_csv)(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ImportError:
        raise UserError(f"{path}: pandas needs pyarrow to read Parquet", "pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path}: is not a table: {error}", "give a CSV, TSV, Parquet, JSON or JSON lines file"
        ) from None
    if table.empty:
        raise UserError(f"{path}: the table is empty", "it needs a row for each model")
    table.columns = [str(name).strip() for name in table.columns]
    return table


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
        raise UserError("give at least one target and one measure", "name their columns")
    if columns.long is not None and (columns.model is None or columns.measures):
        raise UserError("--long: give two columns, MEASURE,VALUE, and --model, without --measures")
    for given, what in _named(columns).items():
        require(table, given, what)
    notes: list[str] = []
    if columns.long is None:
        wide, measured = table, None
    else:
        wide, measured = _split_long(table, columns, notes)
    labels = _labels(wide, columns.model)
    if measured is None:
        names: Sequence[str] = columns.measures or _numbers_left(wide, columns)
        if not names:
            raise UserError("give at least one target and one measure", "name their columns")
        measured = pd.concat([_measured(wide, name, labels) for name in names], ignore_index=True)
    else:
        names = ()
    models = _models(wide, columns, labels, pool, names)
    fields = [c for c in measured.columns if c.startswith("spec.")]
    order = ["model", "measure", *fields, "replicate", "value", "stderr", "status", "message"]
    pools = measured["model"].map(dict(zip(models["model"], models["pool"], strict=True)))
    results = measured[order]
    results.insert(1, "pool", pools)
    return models, results, notes


def _named(columns: Columns) -> dict[tuple[str, ...], str]:
    """Return names of columns that must be there, by the option that gives them."""
    found: dict[tuple[str, ...], str] = {
        tuple(columns.targets): "--targets", tuple(columns.measures): "--measures",
        (*columns.groups, *columns.within): "--groups, --within", tuple(columns.attributes or ()): "--attributes",
    }  # fmt: skip
    if columns.model is not None:
        found[(columns.model,)] = "--model"
    if columns.long is not None:
        found[columns.long] = "--long"
    for option, names in columns.figures.items():
        found[tuple(names)] = f"--{option}"
    return found


def require(table: pd.DataFrame, names: Sequence[str], what: str) -> None:
    """Refuse names that are no columns.

    Raises:
        UserError: naming the nearest one that is.
    """
    for name in names:
        if name not in table.columns:
            raise UserError(f"{what}: the table has no column '{name}'", did_you_mean(name, list(table.columns)))


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
    own = [c for c in table.columns if c in CARRIED or c.startswith("spec.")]
    rest = table.drop(columns=[name, value, *own])
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
    measured["measure"] = [found for found, _ in parsed]
    for setting in dict.fromkeys(key for _, settings in parsed for key in settings):
        measured[f"spec.{setting}"] = [settings.get(setting) for _, settings in parsed]
    for column in (c for c in own if c.startswith("spec.")):
        measured[column] = table[column].to_numpy()
    measured["replicate"] = table["replicate"].to_numpy() if "replicate" in own else 0
    settings = [c for c in measured.columns if c.startswith("spec.")]
    twice = measured.duplicated(["model", "measure", "replicate", *settings])
    if twice.any():
        row = measured[twice].iloc[0]
        raise UserError(
            f"--long: model '{row['model']}' has measure '{row['measure']}' twice",
            "number repetitions in a column 'replicate', or average them before",
        )
    measured["value"] = numbers(table, value, "--long").to_numpy()
    for column in ("stderr", "status", "message"):
        if column in own:
            measured[column] = table[column].to_numpy()
    return wide, _with_status(measured)


def _measured(table: pd.DataFrame, name: str, labels: pd.Series) -> pd.DataFrame:
    """Return the rows of one column of a wide table."""
    measure, settings = definition(name)
    spec = {f"spec.{key}": value for key, value in settings.items()}
    rows = {"model": labels, "measure": measure, **spec, "replicate": 0, "value": numbers(table, name, "--measures")}
    return _with_status(pd.DataFrame(rows))


def _with_status(measured: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns that a run's have: what is missing or infinite says so."""
    value = measured["value"].astype(float)
    if "status" not in measured:
        infinite = value.map(math.isinf)
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


def definition(name: str) -> tuple[str, dict[str, Any]]:
    """Return a measure and its settings.

    >>> definition("worst_case(rho=0.1, norm=linf)"), definition("tr(H)")
    (('worst_case', {'rho': 0.1, 'norm': 'linf'}), ('tr(H)', {}))
    """
    found = _SETTINGS.match(name)
    pairs = [pair.partition("=") for pair in found[2].split(",")] if found else []
    if not found or not all(key.strip() and value.strip() for key, _, value in pairs):
        return name, {}
    return found[1], {key.strip(): _setting(value.strip()) for key, _, value in pairs}


def _setting(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _numbers_left(table: pd.DataFrame, columns: Columns) -> tuple[str, ...]:
    """Return the columns of numbers that are nothing else."""
    taken = {*OWN, *columns.targets, *columns.groups, *columns.within, *(columns.attributes or ()), columns.model}
    taken |= {name for names in columns.figures.values() for name in names}
    return tuple(
        str(name)
        for name in table.columns
        if name not in taken and pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool
    )


def _models(
    table: pd.DataFrame, columns: Columns, labels: pd.Series, pool: str, measures: Sequence[str]
) -> pd.DataFrame:
    models = pd.DataFrame({"model": labels, "pool": table["pool"].astype(str) if "pool" in table else pool})
    for name in OWN[1:]:
        if name in table:
            models[name] = table[name]
    models = models.assign(admitted=True, reason="")
    used = {*OWN, *columns.targets, *measures, columns.model}
    left = [c for c in table.columns if c not in used]
    asked = [*columns.groups, *columns.within, *(name for names in columns.figures.values() for name in names)]
    attributes = left if columns.attributes is None else [*columns.attributes, *asked]
    for name in dict.fromkeys([*attributes, *asked]):
        if name not in OWN:
            models[f"attr.{name.removeprefix('attr.')}"] = table[name]
    for name in columns.targets:
        models[f"target.{name}"] = numbers(table, name, "--targets")
    return models


def numbers(table: pd.DataFrame, name: str, what: str) -> pd.Series:
    """Return a column as numbers, empty cells as NaN.

    Raises:
        UserError: naming the first cell that is none.
    """
    found = pd.to_numeric(table[name], errors="coerce")
    wrong = found.isna() & table[name].notna() & (table[name].astype(str).str.strip() != "")
    if wrong.any():
        where = next(iter(table.index[wrong]))
        raise UserError(f"{what}: row {where + 1} of column '{name}' is not a number: {table[name][where]!r}")
    return found
