"""Tau against a swept setting: which measure predicts where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acutance.analysis.labels import Namer, definition_label, target_label
from acutance.report.keys import FigureKey
from acutance.report.lettering import as_text, show_legend
from acutance.report.style import CATEGORIES, MARKERS

LINES = 12  # definitions that one figure tells apart
TICKS = 8  # values that a logarithmic axis has room to name


def sweep_figure(
    rows: pd.DataFrame, name: str, title: str = "", label: str | None = None, logarithmic: bool = False
) -> Figure:
    """Return tau with its interval against the swept setting, one line a definition.

    Args:
        rows: of the table of a sweep, of one target, level and group, with a column ``definition``.
        name: column of the swept setting; values that are not numbers are put at equal distances.
        title: headline.
        label: of the horizontal axis; the column's name by default.
        logarithmic: for values that are positive numbers.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    values = list(dict.fromkeys(rows[name]))
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    place = {v: float(v) if numeric else float(i) for i, v in enumerate(values)}
    definitions = list(dict.fromkeys(rows["definition"]))
    lines = [_line(axis, rows[rows["definition"] == d], name, place, i) for i, d in enumerate(definitions)]
    axis.axhline(0, color="0.6", lw=0.8)
    axis.set_ylim(-1.05, 1.05)
    axis.set_xlabel(label or name.replace("_", " "))
    if logarithmic:
        axis.set_xscale("log")
        if len(values) <= TICKS:
            axis.set_xticks(list(place.values()), [f"{v:g}" for v in place.values()])
            axis.minorticks_off()
    axis.set_ylabel("Kendall's τ, 95% interval")
    if not numeric:
        axis.set_xticks(list(place.values()), [as_text(v) for v in values])
    axis.grid(True, color="0.92", lw=0.6)
    axis.set_axisbelow(True)
    show_legend(figure, lines, definitions, ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _line(axis: Axes, rows: pd.DataFrame, name: str, place: dict[Any, float], i: int) -> Line2D:
    x = np.array([place[v] for v in rows[name]])
    order = np.argsort(x, kind="stable")
    x, rows = x[order], rows.iloc[order]
    colour, marker = CATEGORIES[i % len(CATEGORIES)], MARKERS[i % len(MARKERS)]
    dashes = ("-", "--")[i // len(CATEGORIES) % 2]
    name = str(rows["definition"].iloc[0])
    (line,) = axis.plot(x, rows["tau"], dashes, marker=marker, ms=4.5, lw=1.3, color=colour, label=name)
    axis.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.12, lw=0)
    return line


def sweep_panels(
    table: pd.DataFrame, name: str, recipe: str = "sweep", label: Callable[[Any, Namer], str] = definition_label
) -> dict[FigureKey, pd.DataFrame]:
    """Return the rows of each figure: one target and level, whole pools only, at most ``LINES`` definitions.

    Args:
        table: correlations with the swept value in a column.
        name: of that column; a setting of the measures that is swept tells no definitions apart.
        recipe: what the figures are called.
        label: names the line of a row.
    """
    plain = table.drop(columns=[c for c in (f"spec.{name}", name) if c in table.columns])
    namer = Namer(plain.to_dict("records"))
    whole = table.assign(definition=[label(row, namer) for row in plain.to_dict("records")])
    keys: dict[FigureKey, pd.DataFrame] = {}
    for (target, level), rows in whole[whole["group"] == "all"].groupby(["target", "within"], sort=False):
        definitions = list(dict.fromkeys(rows["definition"]))
        for start in range(0, len(definitions), LINES):
            part = rows[rows["definition"].isin(definitions[start : start + LINES])]
            number = f"-{start // LINES + 1}" if len(definitions) > LINES else ""
            keys[FigureKey(recipe, "" if level == "all" else str(level), f"{target}{number}")] = part
    return keys


def panel_title(key: FigureKey, rows: pd.DataFrame) -> str:
    """Return the headline of one of ``sweep_panels``."""
    target, level = target_label(str(rows["target"].iloc[0])), key.level.replace("architecture=", "")
    return f"{target.replace('_', ' ')}\n{level}".strip()
