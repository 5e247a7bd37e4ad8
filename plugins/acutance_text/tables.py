"""Tables of texts: CSV, TSV, JSON lines and Parquet, the first three also compressed by gzip."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from acutance.errors import UserError, some

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
        from acutance.io.parquet import read_columns as read_parquet

        return [column.to_pylist() for column in read_parquet(files, wanted)]
    path = files[0]
    try:
        with _open(path) as lines:
            read = _json_lines if _kind(path) in (".jsonl", ".json") else _delimited
            return read(path, lines, wanted)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}", "give a text file in UTF-8") from None


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _delimited(path: Path, lines: IO[str], wanted: Sequence[Sequence[str]]) -> Columns:
    csv.field_size_limit(sys.maxsize)
    # GLUE's and HANS's tab-separated files quote nothing: a quotation mark is part of a sentence.
    plain = _kind(path) != ".csv"
    reader = csv.reader(lines, delimiter="\t" if plain else ",", quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
    header = [name.strip() for name in next(reader, [])]
    places = [header.index(_choose(path, header, names)) for names in wanted]
    rows = []
    for number, row in enumerate(reader, 2):
        if not row:
            continue
        if len(row) <= max(places):
            raise UserError(f"{path}: line {number} has {len(row)} fields, the header {len(header)}")
        rows.append([row[place] for place in places])
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in wanted]


def _json_lines(path: Path, lines: IO[str], wanted: Sequence[Sequence[str]]) -> Columns:
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
            column.append(row[_choose(path, list(row), names, f": line {number}")])
    return columns


def _choose(path: Path, header: Sequence[str], names: Sequence[str], where: str = "") -> str:
    found = next((name for name in names if name in header), None)
    if found is None:
        raise UserError(f"{path}{where}: has no column {' or '.join(names)}", f"its columns: {some(list(header))}")
    return found
