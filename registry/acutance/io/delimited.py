"""One reader of tables that come as text: separator, decimal sign and encoding are found and said, cells are texts."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from acutance.errors import UserError, some

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MISSING = ("nan", "na", "n/a", "#n/a", "null", "none", "<na>")  # in a column of numbers, beside an empty cell
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
# One that is no name (007) and finite, unless it is too large.
_PLAIN = re.compile(r"[+-]?(?!0\d+\Z)(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_LIKE = re.compile(r"[+-]?[$€£]?\s?[\d.,' \u00a0_]*\d[\d.,' \u00a0_]*([eE][+-]?\d+)?\s?%?")
# What begins like this is no table of texts.
_KINDS = {
    b"PK\x03\x04": "is an Excel workbook or a zip archive", b"\xd0\xcf\x11\xe0": "is an Excel workbook",
    b"PAR1": "is a Parquet file", b"SQLite format 3": "is a database", b"\x89HDF": "is an HDF5 file",
    b"%PDF": "is a PDF", b"\x93NUMPY": "is a NumPy array",
}  # fmt: skip


@dataclass(frozen=True)
class Delimited:
    """A table of texts.

    Attributes:
        header: names of the columns, all different.
        rows: (line of the file, cells); empty cells are empty texts.
        notes: what a reader should know: how it was read and what was left out.
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]
    notes: list[str] = field(default_factory=list)


def read_delimited(path: Path, hint: str = "give a CSV file in UTF-8", separator: str | None = None) -> Delimited:
    """Read a file with a row of names and a row for each entry; see ``parse_delimited``.

    Args:
        path: CSV, TSV or the like, also compressed with gzip.
        hint: told where there is no such file.
        separator: found by itself where None.

    Raises:
        UserError: as ``parse_delimited``, and for a file that is not there.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint) from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint) from None
    return parse_delimited(data, str(path), separator)


def parse_delimited(data: bytes, where: str, separator: str | None = None) -> Delimited:
    """Return the table that a file holds.

    Spaces around cells are no part of them, and empty lines no rows. Columns without a name that are empty or count
    the rows are left out and said; so is pandas' own index, ``Unnamed: 0``.

    Args:
        data: the file's bytes.
        where: its name, for messages.
        separator: found by itself where None.

    Raises:
        UserError: for what is no text in UTF-8 (or UTF-16 with its mark), for a row with another number of fields than
            the header, and for a name that two columns have; each with its line.
    """
    notes: list[str] = []
    text = _decoded(data, where, notes)
    chosen = separator or _separator(text)
    lines = _records(text, chosen, where)
    if not lines:
        return Delimited([], [], notes)
    if chosen != "," and separator is None:
        notes.append(f"{where}: its fields are separated by {SEPARATORS[chosen]}")
    header, rows = lines[0][1], lines[1:]
    ends = [cells[-1] for _, cells in rows if len(cells) == len(header) + 1]
    if rows and len(ends) == len(rows) and not any(ends):
        header = [*header, ""]  # a separator at the end of every row
    for line, cells in rows:
        if len(cells) != len(header):
            raise UserError(
                f"{where}: line {line} has {len(cells)} fields, the header {len(header)}",
                "quote fields that hold the separator; name every column, also one of row names",
            )
    return _without_index(Delimited(header, rows, notes), where)


def _decoded(data: bytes, where: str, notes: list[str]) -> str:
    for start, kind in _KINDS.items():
        if data.startswith(start):
            raise UserError(f"{where}: {kind}", "save its table as CSV (UTF-8)")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError:
            raise UserError(f"{where}: cannot be read: damaged UTF-16", "save it as CSV (UTF-8)") from None
        notes.append(f"{where}: is read as UTF-16")
        return text
    if b"\x00" in data:
        raise UserError(f"{where}: is no table of texts", "give a CSV file in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{where}: cannot be read: line {line} is not UTF-8 (byte 0x{data[error.start]:02x})",
            "save it as CSV (UTF-8); names would come out wrong",
        ) from None
    if text[:300].lstrip().lower().startswith(("<!doctype", "<html")):
        raise UserError(f"{where}: is a page of the web, no table", "download the file itself")
    return text


def _records(text: str, separator: str, where: str) -> list[tuple[int, list[str]]]:
    """Return (line, cells) of every row that is not empty."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    found, before = [], 0
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                found.append((before + 1, stripped))
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{where}: cannot be read: line {reader.line_num}: {error}", "is a quote missing?") from None
    return found


def _separator(text: str) -> str:
    """Return what splits all rows into as many fields as the header; a comma wherever it does."""
    best, most = ",", 1
    for separator in SEPARATORS:
        try:
            lines = _records(text, separator, "")
        except UserError:
            continue
        count = len(lines[0][1]) if lines else 0
        if count > most and all(len(cells) in (count, count + 1) for _, cells in lines):
            if separator == ",":
                return separator
            best, most = separator, count
    return best


def _without_index(table: Delimited, where: str) -> Delimited:
    header, notes, kept = table.header, list(table.notes), []
    for i, name in enumerate(header):
        cells = [row[i] for _, row in table.rows]
        unnamed = not name or re.fullmatch(r"Unnamed: \d+(\.\d+)*", name)
        if unnamed and not any(cells):
            notes.append(f"{where}: column {i + 1} has no name and is empty: it is left out")
        elif unnamed and counts(cells):
            called = f"'{name}'" if name else f"{i + 1}, without a name,"
            notes.append(f"{where}: column {called} counts the rows and is left out")
        elif not name:
            raise UserError(f"{where}: column {i + 1} has no name", "give every column its own name")
        else:
            kept.append(i)
    names = [header[i] for i in kept]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{where}: column '{twice[0]}' is there twice", "give every column its own name")
    return Delimited(names, [(line, [row[i] for i in kept]) for line, row in table.rows], notes)


def counts(cells: Sequence[str]) -> bool:
    """Whether cells are 0, 1, 2 ... or 1, 2, 3 ..."""
    return any(list(cells) == [str(i + start) for i in range(len(cells))] for start in (0, 1))


def is_number(text: str) -> bool:
    """Whether a cell is one number with a decimal point, or without."""
    return _NUMBER.fullmatch(text) is not None


def plain_numbers(cells: Sequence[object]) -> list[float] | None:
    """Return what a column of numbers says, where every cell is a text of one, and none may be a name; else None."""
    match = _PLAIN.fullmatch
    if not cells or not all(isinstance(cell, str) and match(cell) for cell in cells):
        return None
    values = [float(str(cell)) for cell in cells]
    return None if any(map(math.isinf, values)) else values


def is_missing(text: str) -> bool:
    """Whether a cell of a column of numbers stands for no value."""
    return not text or text.lower() in MISSING


def is_empty(cell: object) -> bool:
    """Whether a cell of a table, a text or not, stands for no value."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and is_missing(cell))
    )


def like_number(text: str) -> bool:
    """Whether a cell may have been meant as a number: with separators of thousands, a decimal comma, a percent sign."""
    return is_number(text) or _LIKE.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a cell that could be a number is more likely a name: ``007``, or ``5e400``, which no number holds."""
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits.isdigit():
        return True
    return is_number(text) and "inf" not in text.lower() and math.isinf(float(text))


def decimal_commas(columns: Sequence[Sequence[str]]) -> list[int]:
    """Return the columns of numbers with a decimal comma; none where the comma may separate thousands.

    A column is one where all cells are numbers, at least one with a comma, and none with a point; and one cell of the
    table at least must have other than three digits behind its comma, or ``1,234`` could be either.
    """
    found = [
        i
        for i, cells in enumerate(columns)
        if any("," in cell for cell in cells)
        and all(is_missing(c) or _COMMA.fullmatch(c) or (is_number(c) and "." not in c) for c in cells)
    ]
    sure = any(re.search(r",(\d{1,2}|\d{4,})([eE]|$)|^[+-]?0*,", c) for i in found for c in columns[i] if "," in c)
    return found if sure else []


def named(names: Sequence[str]) -> str:
    """Return names of columns for a message."""
    return some([f"'{name}'" for name in names])
