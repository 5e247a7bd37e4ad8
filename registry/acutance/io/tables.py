"""Tables made elsewhere, read from CSV and the like, Parquet and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from acutance.errors import UserError
from acutance.io.delimited import read_delimited


def read_table(path: Path, of: str = "model") -> tuple[pd.DataFrame, list[str]]:
    """Read a table, and return it with what a reader should know: its separator, columns that were left out.

    CSV and TSV by ``io.delimited``, every cell a text or None; Parquet, JSON (records) and JSON lines by their
    ending, with the types that they have.

    Args:
        path: the file.
        of: what a row stands for, for the message where there is none.

    Raises:
        UserError: when it is not there or not such a table.
    """
    ending = path.suffix.lower()
    notes: list[str] = []
    if ending == ".parquet":
        table = _parquet(path)
    elif ending in (".json", ".jsonl"):
        table = _json(path, lines=ending == ".jsonl")
    elif ending in (".xlsx", ".xls", ".ods"):
        raise UserError(f"{path}: is a workbook of a spreadsheet", "save its table as CSV (UTF-8)")
    else:
        table, notes = _delimited(path)
    if table.empty:
        raise UserError(f"{path}: the table is empty", f"it needs a row for each {of}")
    table.columns = [str(name).strip() for name in table.columns]
    if twice := table.columns[table.columns.duplicated()].tolist():
        raise UserError(f"{path}: column '{twice[0]}' is there twice", "give every column its own name")
    return table, notes


def _parquet(path: Path) -> pd.DataFrame:
    try:
        found: pd.DataFrame = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ImportError:
        raise UserError(f"{path}: pandas needs pyarrow to read Parquet", "pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: is not a table: {error}", "get the file again") from None
    return found


def _json(path: Path, lines: bool) -> pd.DataFrame:
    """Texts stay texts: pandas' own reader makes numbers and dates of what looks like some."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _lines(text) if lines else json.loads(text)
        if not isinstance(rows, list | dict):
            raise TypeError(f"it holds one {type(rows).__name__}")
        if isinstance(rows, list) and (other := [i for i, row in enumerate(rows, 1) if not isinstance(row, dict)]):
            raise TypeError(f"item {other[0]} is a {type(rows[other[0] - 1]).__name__}, no record")
        return pd.DataFrame(rows)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: is not a table: {error}", "give a list of records, {column: value} each") from None


def _lines(text: str) -> list[dict[str, object]]:
    """Return the records of JSON lines.

    Raises:
        ValueError: naming the line that is none.
    """
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is a {type(record).__name__}, no record; an array goes into a .json file")
        records.append(record)
    return records


def _delimited(path: Path) -> tuple[pd.DataFrame, list[str]]:
    found = read_delimited(path, "", "\t" if path.suffix.lower() == ".tsv" else None).with_points(str(path))
    columns = zip(found.header, found.columns(), strict=True)
    return pd.DataFrame({n: pd.Series([c or None for c in cells], dtype=object) for n, cells in columns}), found.notes
