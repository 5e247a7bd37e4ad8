"""What a cell of a table that came as text says: a number, a name, a missing value; and which decimal sign it has."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MISSING = ("nan", "na", "n/a", "#n/a", "null", "none", "<na>")  # in a column of numbers, beside an empty cell
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
# One that is no name (007) and finite, unless it is too large.
_PLAIN = re.compile(r"[+-]?(?!0\d+\Z)(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_LIKE = re.compile(r"[+-]?[$€£]?\s?[\d.,' \u00a0_]*\d[\d.,' \u00a0_]*([eE][+-]?\d+)?\s?%?")


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
