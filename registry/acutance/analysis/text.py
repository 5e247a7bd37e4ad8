"""Names from anywhere, as a terminal or a figure may show them: no control characters, no turned direction."""

from __future__ import annotations

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

    def shown(found: re.Match[str]) -> str:
        letter = found[0]
        if letter in keep:
            return letter
        return _PLAIN.get(letter) or (f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}")

    return _HIDDEN.sub(shown, text)
