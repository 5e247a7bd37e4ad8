"""What stands in figures: names as they are, and the few symbols of our own that are set as mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axis import Axis, XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.text import Text

from acutance.analysis.text import visible

MATHEMATICS = "mathematics"  # marks texts of our own


def mathematics(text: Text) -> None:
    """Let what stands between dollar signs be set as mathematics: only where no name is part of the text."""
    text.set_gid(MATHEMATICS)


def as_text(name: object) -> str:
    r"""Return a name so that a text that is not marked shows it as it stands; a dollar sign is a dollar sign.

    >>> as_text("cost [$]"), as_text("$x$")
    ('cost [\\$]', '\\$x\\$')
    """
    return visible(str(name), keep="\n").replace("$", r"\$")


def show_names(figure: Figure) -> None:
    """Show every text of a figure as it stands, but for marked ones, and for ticks: ``as_text`` makes theirs."""
    ticks = {
        id(label)
        for axis in (*figure.findobj(XAxis), *figure.findobj(YAxis))
        for label in axis.findobj(Text)
        if isinstance(axis, Axis) and label is not axis.label
    }
    for text in figure.findobj(Text):
        if text.get_gid() != MATHEMATICS and id(text) not in ticks:
            text.set_parse_math(False)
            text.set_text(visible(text.get_text(), keep="\n"))


def show_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """Draw a legend below a figure; a name may begin with an underscore, which a legend's own labels may not."""
    legend = figure.legend(handles, ["-" * len(name) for name in names], loc="outside lower center", **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
