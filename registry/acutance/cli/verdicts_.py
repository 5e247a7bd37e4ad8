"""The last words of ``acutance run`` and ``correlate``: a line for each measure, and whether anything holds."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from acutance.cli.screen import echo

if TYPE_CHECKING:
    from rich.console import Console

    from acutance.run.statistics import Judged

LINES = 24  # measures of one level that are printed; the file has all


def print_verdicts(judged: Judged, console: Console, where: str = "in verdicts.csv") -> None:
    """Print the verdicts of each level, what holds first, and the conclusion; or why there are none.

    Args:
        judged: the verdicts.
        where: where those are that are too many for a screen.
        console: whose width the lines keep.
    """
    from acutance.analysis.verdicts import conclusion, in_order

    table = judged.table
    if table is None:
        echo("\n" + _filled(judged.fault, console.width))
        return
    several = table["within"].nunique() > 1
    for level, part in table.groupby("within", sort=False):
        echo(f"\n{level}" if several else "")
        for row in in_order(part).head(LINES).to_dict("records"):
            echo(_filled(f"{row['definition']}: {row['line']}", console.width))
        if len(part) > LINES:
            echo(f"... and {len(part) - LINES} measures more, {where}")
        echo(_filled(conclusion(part), console.width))


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
