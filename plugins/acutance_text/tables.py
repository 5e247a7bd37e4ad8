"""Tables of texts: CSV, TSV, JSON lines and Parquet, the first three also compressed by gzip."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from acutance.errors import UserError
from acutance.io.delimited import Form, column_named
from acutance.io.delimited import read_columns as read_rows
from acutance.io.parquet import read_columns as read_parquet

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")
Columns = list[list[Any]]


def find_table(root: Path, stems: Iterable[str], folders: Sequence[str] = (".",)) -> list[Path]:
    """Return the files of a table: the first of these names that is there in any format, or its Parquet shards.

    Args:
        root: folder.
        stems: names without suffix, the preferred first.
        folders: subfolders that are looked into.
    """
    for folder in (root / name for name in folders):
        for stem in stems:
            for suffix in SUFFIXES:
                for name in (f"{stem}{suffix}", f"{stem}{suffix}.gz"):
                    if (folder / name).is_file():
                        return [folder / name]
            shards = sorted(folder.glob(f"{stem}-*-of-*.parquet"))
            if shards:
                return shards
    return []


def read_columns(files: Sequence[Path], wanted: Sequence[Sequence[str]]) -> Columns:
    """Return the columns of a table, each a list over all its rows.

    Args:
        files: of one table; several only of Parquet.
        wanted: for each column the names it may have, the preferred first.

    Raises:
        UserError: naming file, line and column, for a file that cannot be read or lacks a column.
    """
    if files[0].suffix == ".parquet":
        return [column.to_pylist() for column in read_parquet(files, wanted)]
    path = files[0]
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind in (".jsonl", ".json"):
        try:
            with _open(path) as lines:
                return _json_lines(path, lines, wanted)
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read: {error}", "give a text file in UTF-8") from None
    # GLUE's and HANS's tab-separated files quote nothing: a quotation mark is part of a sentence.
    form = Form(stripped=False) if kind == ".csv" else Form("\t", quoted=False, stripped=False)
    rows = [cells for _, cells in read_rows(path, wanted, form, "give a text file in UTF-8")]
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in wanted]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _json_lines(path: Path, lines: IO[str], wanted: Sequence[Sequence[str]]) -> Columns:
    """Return the columns of JSON lines, an object each."""
    columns: Columns = [[] for _ in wanted]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}", "write one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no object", "write one object a line")
        for column, names in zip(columns, wanted, strict=True):
            column.append(row[column_named(names, list(row), f"{path}: line {number}")])
    return columns
