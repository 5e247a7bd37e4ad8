"""Tables of ours as CSV, written and read back.

Text that a spreadsheet would run as a formula is kept from it: names and attributes of models come from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import IO, Any

import pandas as pd
from packaging.version import Version

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
# Until 3.1 pandas reads one number in three off by its last bit, unless it is told not to; from then on it never does.
_EXACT: dict[str, Any] = {} if Version(pd.__version__).release >= (3, 1) else {"float_precision": "round_trip"}


def escaped(text: str) -> str:
    """Return a text with an apostrophe in front where a spreadsheet would take it for a formula.

    >>> escaped("=1+1"), escaped("-0.5"), escaped("sgd"), escaped("'=1+1")
    ("'=1+1", '-0.5', 'sgd', "''=1+1")
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def unescaped(text: str) -> str:
    """Return what ``escaped`` was given; the two are inverse to each other for every text."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def escape_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts and column names are escaped, names of models among them; numbers stay."""
    return _mapped(table, escaped)


def unescape_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as it was before ``escape_table``."""
    return _mapped(table, unescaped)


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as the CSV that is written for people."""
    return str(escape_table(table).to_csv(index=False))


def read_back(file: IO[Any], texts: Collection[str] = ()) -> pd.DataFrame:
    """Return a table from the CSV that ``csv_text`` made of it, its numbers to the last bit.

    Args:
        file: what is in it, open at its beginning.
        texts: columns of names, which stay texts though they look like numbers; so do all ``label.*``.

    Raises:
        pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError: when it is not a table.
    """
    # "none" is the name of a scaling, so only what pandas itself writes for a missing value is one.
    plain: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "low_memory": False, **_EXACT}
    header = pd.read_csv(file, nrows=0, **plain).columns
    file.seek(0)
    kept = {name: str for name in header if name in texts or name.startswith("label.")}
    return unescape_table(pd.read_csv(file, dtype=kept, **plain))


def _mapped(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    changed: dict[str, pd.Series] = {}
    for name in table.columns:
        # Numbers never start a formula: only columns that may hold texts are looked at.
        if pd.api.types.is_numeric_dtype(table[name]):
            continue
        # A text that occurs in a million rows is looked at once, and most tables have none to change.
        column = table[name]
        texts = {value: change(value) for value in pd.unique(column) if isinstance(value, str)}
        if any(new != old for old, new in texts.items()):
            changed[name] = column.map(lambda value, texts=texts: texts[value] if isinstance(value, str) else value)
    found = table.assign(**changed) if changed else table
    return found.rename(columns={name: change(str(name)) for name in found.columns})


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
