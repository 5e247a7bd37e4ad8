"""Tables made elsewhere, as the two tables that the statistics are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from acutance.errors import UserError, did_you_mean


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


def spread(table: pd.DataFrame, model: str, measure: str, value: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a long table with one row for each model and measure as one with a row for each model.

    Args:
        table: what else it has must be the same in all rows of a model.
        model: column of the models.
        measure: column that names the measures.
        value: column of their values.

    Returns:
        The table, and the names of the measures, which are columns now.

    Raises:
        UserError: for a measure that a model has twice, or a name that is a column already.
    """
    require(table, [model, measure, value], "--long")
    names = list(dict.fromkeys(table[measure].astype(str)))
    rest = table.drop(columns=[measure, value]).drop_duplicates(subset=model)
    if taken := [name for name in names if name in rest.columns]:
        raise UserError(f"--long: '{taken[0]}' is a measure and a column of the table", "rename one of them")
    twice = table.duplicated([model, measure])
    if twice.any():
        row = table[twice].iloc[0]
        raise UserError(
            f"--long: model '{row[model]}' has measure '{row[measure]}' twice", "average repetitions before"
        )
    wide = table.assign(**{measure: table[measure].astype(str)}).pivot(index=model, columns=measure, values=value)
    return rest.merge(wide.reset_index(), on=model), names


def require(table: pd.DataFrame, names: Sequence[str], what: str) -> None:
    """Refuse names that are no columns.

    Raises:
        UserError: naming the nearest one that is.
    """
    for name in names:
        if name not in table.columns:
            raise UserError(f"{what}: the table has no column '{name}'", did_you_mean(name, list(table.columns)))


def as_run(
    table: pd.DataFrame,
    targets: Sequence[str],
    measures: Sequence[str],
    model: str | None = None,
    attributes: Sequence[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table with a row for each model as (models, results), which ``correlations`` takes.

    Args:
        table: one row a model.
        targets: columns to be predicted.
        measures: columns that are to predict them.
        model: column with the models' names; the row's number by default.
        attributes: columns that make groups and levels.

    Raises:
        UserError: for a column that is not there or not of numbers, and two models of one name.
    """
    if not targets or not measures:
        raise UserError("give at least one target and one measure", "name their columns")
    for names, what in ((targets, "--targets"), (measures, "--measures"), (attributes, "--groups, --within")):
        require(table, names, what)
    if model is not None:
        require(table, [model], "--model")
    labels = table[model].astype(str) if model else pd.Series([str(i) for i in range(len(table))], index=table.index)
    if labels.duplicated().any():
        again = labels[labels.duplicated()].iloc[0]
        raise UserError(
            f"--model: more than one row is called '{again}'", "give every model a row and a name of its own"
        )
    models = pd.DataFrame({"model": labels, "admitted": True})
    for name in attributes:
        models[f"attr.{name}"] = table[name]
    for name in targets:
        models[f"target.{name}"] = numbers(table, name, "--targets")
    parts = [
        pd.DataFrame({"model": labels, "measure": name, "value": numbers(table, name, "--measures"), "status": "ok"})
        for name in measures
    ]
    return models, pd.concat(parts, ignore_index=True)


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
