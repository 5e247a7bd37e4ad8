"""The one reader of tables that come as text: separator, decimal sign and encoding are found and said, cells are texts.

``read_delimited`` and ``parse_delimited`` return a whole table and refuse whatever is odd about it. ``read_columns``
keeps only the columns that are asked for, and looks at nothing else: of large files, and of published ones.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from acutance.errors import UserError, some
from acutance.io.cells import counts, decimal_commas

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
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

    def columns(self) -> list[list[str]]:
        """Return the cells of every column, in the order of the header."""
        return [[row[i] for _, row in self.rows] for i in range(len(self.header))]

    def with_points(self, where: str) -> Delimited:
        """Return the table with decimal points where it has decimal commas, and a note of which columns had some."""
        columns = self.columns()
        commas = decimal_commas(columns)
        if not commas:
            return self
        names = some([f"'{self.header[i]}'" for i in commas])
        cell = next(cell for cell in columns[commas[0]] if "," in cell)
        note = f"{where}: the comma is a decimal comma in {names}, as in '{cell}'"
        for i in commas:
            columns[i] = [cell.replace(",", ".") for cell in columns[i]]
        lines = [line for line, _ in self.rows]
        rows = [(line, list(cells)) for line, cells in zip(lines, zip(*columns, strict=True), strict=True)]
        return replace(self, rows=rows, notes=[*self.notes, note])


@dataclass(frozen=True)
class Form:
    """How the rows of a file are written.

    Attributes:
        separator: what stands between two fields.
        quoted: whether a field may be quoted; where not, a quotation mark is part of a text.
        stripped: whether spaces around a field are no part of it, and rows of empty fields none.
    """

    separator: str = ","
    quoted: bool = True
    stripped: bool = True


def read_delimited(path: Path, hint: str = "give a CSV file in UTF-8", separator: str | None = None) -> Delimited:
    """Read a file with a row of names and a row for each entry; see ``parse_delimited``.

    Args:
        path: CSV, TSV or the like, also compressed with gzip.
        hint: told where there is no such file.
        separator: found by itself where None.

    Raises:
        UserError: as ``parse_delimited``, and for a file that is not there.
    """
    return parse_delimited(_read(path, hint), str(path), separator)


def read_columns(
    path: Path, wanted: Sequence[Sequence[str]], form: Form = Form(), hint: str = "", fill: str | None = None
) -> list[tuple[int, list[str]]]:
    """Return (line of the file, wanted cells) of every row; other columns may be anything, and are not kept.

    Args:
        path: as ``read_delimited`` takes it.
        wanted: for each column the names it may have, the preferred first; of two columns of a name the first is taken.
        form: how rows are written.
        hint: told where there is no such file.
        fill: what stands in for cells that a row is too short to have.

    Raises:
        MissingColumnError: for a column that is not there.
        UserError: for a file that is not there or no text, and, with its line, for a row that ends before a wanted
            column where nothing stands in.
    """
    data, notes = _read(path, hint), list[str]()
    rows = _records(data, _encoding(data, str(path), notes), form, str(path))
    header = [name.strip() for name in next(rows, (0, []))[1]]
    places = [header.index(column_named(names, header, str(path))) for names in wanted]
    found = []
    for line, cells in rows:
        if len(cells) <= max(places):
            if fill is None:
                raise UserError(f"{path}: line {line} has {len(cells)} fields, the header {len(header)}")
            cells += [fill] * (max(places) + 1 - len(cells))
        found.append((line, [cells[place] for place in places]))
    return found


class MissingColumnError(UserError):
    """A table lacks a column that is needed."""


def column_named(names: Sequence[str], header: Sequence[str], where: str) -> str:
    """Return the first of some names that a table has.

    Raises:
        MissingColumnError: when it has none, naming those that it has.
    """
    for name in names:
        if name in header:
            return name
    raise MissingColumnError(
        f"{where}: has no column {' or '.join(names)}", f"its columns: {some(list(header)) or 'none'}"
    )


def _read(path: Path, hint: str) -> bytes:
    """Return what is in a file, unpacked."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}", hint) from None


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
    encoding = _encoding(data, where, notes)
    chosen = separator or _separator(data, encoding)
    lines = list(_records(data, encoding, Form(chosen), where))
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
            if lasting := max(cell.count("\n") for cell in cells):
                raise UserError(
                    f"{where}: line {line}: a field in quotes goes on for {lasting + 1} lines, and the row has "
                    f"{len(cells)} fields, the header {len(header)}",
                    "is the quote missing that ends it?",
                )
            raise UserError(
                f"{where}: line {line} has {len(cells)} fields, the header {len(header)}",
                "quote fields that hold the separator; name every column, also one of row names",
            )
    return _without_index(Delimited(header, rows, notes), where)


def _encoding(data: bytes, where: str, notes: list[str]) -> str:
    """Return the encoding of a text; all of it can be decoded."""
    for start, kind in _KINDS.items():
        if data.startswith(start):
            raise UserError(f"{where}: {kind}", "save its table as CSV (UTF-8)")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            data.decode("utf-16")
        except UnicodeDecodeError:
            raise UserError(f"{where}: cannot be read: damaged UTF-16", "save it as CSV (UTF-8)") from None
        notes.append(f"{where}: is read as UTF-16")
        return "utf-16"
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
    return "utf-8-sig"


def _records(data: bytes, encoding: str, form: Form, where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of every row that is not empty."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(
        io.TextIOWrapper(io.BytesIO(data), encoding, newline=""),
        delimiter=form.separator,
        skipinitialspace=form.stripped,
        quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE,
    )
    before = 0
    try:
        for row in reader:
            cells = [cell.strip() for cell in row] if form.stripped else row
            if any(cells) if form.stripped else cells:
                yield before + 1, cells
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{where}: cannot be read: line {reader.line_num}: {error}", "is a quote missing?") from None


def _separator(data: bytes, encoding: str) -> str:
    """Return what splits all rows into as many fields as the header; a comma wherever it does."""
    best, most = ",", 1
    for separator in SEPARATORS:
        try:
            lines = list(_records(data, encoding, Form(separator), ""))
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
