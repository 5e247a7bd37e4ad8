"""BibTeX entries of the works that measures go back to, by citation key: those of ``references.bib``.

A measure names its own in ``Traits.bibtex``: keys of that file, or whole entries of its author's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from acutance.errors import UserError, did_you_mean

_ENTRY = re.compile(r"^@\w+\{([^,\s]+),.*?^\}", re.DOTALL | re.MULTILINE)


@cache
def known() -> dict[str, str]:
    """Return the entries by their keys; each begins and ends on a line of its own."""
    text = Path(__file__).with_suffix(".bib").read_text(encoding="utf-8")
    return {entry[1]: entry[0] for entry in _ENTRY.finditer(text)}


def entries(names: Sequence[str] | str) -> list[str]:
    """Return BibTeX entries.

    Args:
        names: keys of ``references.bib``, or entries, which begin with ``@``; or a single one.

    Raises:
        UserError: for a key that is not in that file.
    """
    bibtex = []
    for name in [names] if isinstance(names, str) else names:
        if not name.lstrip().startswith("@") and name not in known():
            raise UserError(f"unknown citation key '{name}'", did_you_mean(name, list(known())))
        bibtex.append(known().get(name, name).strip())
    return bibtex
