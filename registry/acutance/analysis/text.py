"""Names from anywhere, as a terminal or a figure may show them, and numbers as sentences and tables write them."""

from __future__ import annotations

import math
import re

# C0 and C1 controls, the marks and overrides of the direction of writing, line and paragraph separators, the mark of
# the byte order, and halves of surrogate pairs (bytes of a file name that are no UTF-8).
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_PLAIN = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with what a terminal would obey written as its escape.

    Args:
        text: of any origin.
        keep: characters that stay as they are: line ends in a text of several lines.

    >>> visible("a\x1b[2Jb\u202e"), visible("a\tb\nc", keep="\n")
    ('a\\x1b[2Jb\\u202e', 'a\\tb\nc')
    """

    def shown(match: re.Match[str]) -> str:
        letter = match[0]
        if letter in keep:
            return letter
        return _PLAIN.get(letter) or (f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}")

    return _HIDDEN.sub(shown, text)


def number(value: float, digits: int = 2) -> str:
    """Return tau with its sign, or a dash for a missing one."""
    return f"{value:+.{digits}f}".replace("-", "\u2212") if math.isfinite(value) else "\u2013"


def p_value(value: float, name: str = "") -> str:
    """Return a p-value with three digits: ``0.013``, ``<0.001``; after its name ``p = 0.013``, ``p < 0.001``."""
    small = value < 0.001
    plain = ("<0.001" if small else f"{value:.3f}") if math.isfinite(value) else "\u2013"
    return f"{name} < 0.001" if name and small else f"{name} = {plain}" if name else plain


def typographic(text: str) -> str:
    """Return a text with minus signs before its numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)


def ends(low: float, high: float) -> str:
    """Return an interval; empty where there is none."""
    return f"[{number(low)}, {number(high)}]" if math.isfinite(low) else ""
