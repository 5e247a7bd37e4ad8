"""Curves that a measure gives beside its value, one for each model: a spectral density, say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acutance.presentation import presentation, with_curve
from acutance.report.data import ReportData
from acutance.report.style import Style, style

DECADES = 6  # below the largest magnitude that the axis shows on a logarithmic scale


def curve_figure(data: ReportData, level: str, definition: str) -> Figure:
    """Return the curves of one definition, one line a model of the level; both axes are logarithmic.

    Args:
        data: the tables.
        level: a level of ``within``.
        definition: name of a definition.
    """
    rows = data.curve_rows(level, definition)
    look = style(data, data.members(level))
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axis = figure.subplots()
    _panel(axis, rows, look)
    _bar(figure, axis, look)
    figure.suptitle(f"{definition}: {rows['curve'].iloc[0]}\n{level.replace('architecture=', '')}", fontsize=11)
    return figure


def stacked_curves(data: ReportData, level: str, definitions: Sequence[str], curve: str, title: str) -> Figure:
    """Return the curves of one name of some definitions above each other.

    Args:
        data: the tables.
        level: a level of ``within``.
        definitions: names of definitions that have the curve.
        curve: its name.
        title: headline.
    """
    look = style(data, data.members(level))
    figure = Figure(figsize=(7.0, 0.9 + 2.5 * len(definitions)), layout="constrained")
    axes: Any = figure.subplots(len(definitions), 1, squeeze=False)
    for axis, definition in zip(axes[:, 0], definitions, strict=True):
        rows = data.curve_rows(level, definition)
        _panel(axis, rows[rows["curve"] == curve], look)
        axis.set_title(definition, fontsize=9)
    _bar(figure, axes, look)
    figure.suptitle(f"{title}\n{level.replace('architecture=', '')}", fontsize=11)
    return figure


def who_gives(curve: str = "") -> str:
    """Return which measures to add to a study for curves, or for those of one name."""
    measures, wanted = with_curve(curve), "one" if curve else "curves"
    return (
        f"add {' or '.join(measures)} to the measures" if measures else f"no measure that is installed gives {wanted}"
    )


def _panel(axis: Axes, rows: pd.DataFrame, look: Style) -> None:
    """Draw a line a model and replicate."""
    for (model, _), points in rows.groupby(["model", "replicate"], sort=False):
        x, y = points["x"].to_numpy(float), points["y"].to_numpy(float)
        axis.plot(x, np.where(y > 0, y, np.nan), ".-", ms=2.5, lw=0.7, alpha=0.8, color=look.colours[str(model)])
    seen = rows[rows["y"] > 0]
    largest = float(seen["x"].abs().max()) if len(seen) else 1.0
    # Linear between whole decades, so that no tick falls between them.
    axis.set_xscale("symlog", linthresh=10.0 ** (math.ceil(math.log10(max(largest, 1e-290))) - DECADES))
    axis.set_yscale("log")
    span = [min(float(seen["x"].min()), 0.0), largest] if len(seen) else [-1.0, 1.0]
    axis.set_xlim(span[0] * 2, span[1] * 2)
    measure, curve = str(rows["measure"].iloc[0]), str(rows["curve"].iloc[0])
    x_label, y_label = presentation(measure).curves.get(curve, ("x", "y"))
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.tick_params(labelsize=7)


def _bar(figure: Figure, axes: Any, look: Style) -> None:
    if look.bar is not None:
        bar = figure.colorbar(look.bar, ax=axes, aspect=25, pad=0.02)
        bar.set_label(look.label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
