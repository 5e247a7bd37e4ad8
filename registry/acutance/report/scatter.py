"""Sharpness against targets, as the paper draws it: radii as columns, targets as rows, tau in the corner."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from acutance.analysis.labels import target_label
from acutance.analysis.text import number
from acutance.presentation import presentation
from acutance.report.data import ReportData, target_values
from acutance.report.lettering import as_text, mathematics, show_legend
from acutance.report.scales import is_logarithmic, target_scale
from acutance.report.style import Style, style

LEGEND_ENTRY = 1.8  # inches that "augment=1, mixup=0" takes


def scatter_grid(
    data: ReportData, level: str, definition: str, targets: list[str] | None = None, radii: list[Any] | None = None,
    beside: bool = False,
) -> Figure:  # fmt: skip
    """Return the grid of one definition within one level.

    Args:
        data: the tables.
        level: a level of ``within``.
        definition: name of a definition, without radius.
        targets: rows; all targets by default.
        radii: columns; all radii by default.
        beside: targets are the columns and radii the rows.
    """
    targets = targets or data.targets
    radii = radii or data.radii(definition)
    models = data.members(level)
    look = style(data, models)
    height, width = (len(radii), len(targets)) if beside else (len(targets), len(radii))
    figure = Figure(figsize=(1.5 + 2.45 * width, 1.35 + 2.1 * height), layout="constrained")
    axes = figure.subplots(
        height, width, squeeze=False, sharey="col" if beside else "row", sharex="row" if beside else "col"
    )
    for j, rho in enumerate(radii):
        values = data.values(definition, rho)
        for i, target in enumerate(targets):
            axis = axes[j, i] if beside else axes[i, j]
            panel(axis, values, target_values(models, target), look)
            write_tau(axis, data.tau(definition, rho, target, level), look)
            radius = "" if rho is None else rf"$\rho$ = {rho:g}"
            if j == 0 or beside:
                axis.set_ylabel(target_name(target))
            if i == 0 and radius and not beside:
                mathematics(axis.set_title(radius, fontsize=10, pad=27))
            if beside:
                mathematics(axis.set_xlabel(", ".join(filter(None, (symbol(data, definition), radius)))))
            elif i == len(targets) - 1:
                mathematics(axis.set_xlabel(symbol(data, definition)))
    legends(figure, axes, look)
    lines = [definition, level.replace("architecture=", ""), *textwrap.wrap(data.left_out, 26 * width + 14)]
    figure.suptitle("\n".join(lines), fontsize=11)
    return figure


def panel(axis: Axes, values: pd.DataFrame, target: pd.Series, look: Style) -> None:
    """Draw one panel: a point a model; values off the scale are marked at its edge and counted."""
    table = pd.DataFrame({"y": target}).join(values, how="inner").dropna(subset=["y", "value"])
    shown = table[np.isfinite(table["value"])]
    positive = shown["value"] > 0
    logarithmic = is_logarithmic(table["value"])
    plain = shown[positive] if logarithmic else shown
    for group, marker in look.markers.items():
        rows = plain[[look.group[str(m)] == group for m in plain.index]]
        if len(rows):
            names = list(map(str, rows.index))
            axis.errorbar(rows["value"], rows["y"], xerr=rows["stderr"].fillna(0), fmt="none", ecolor="0.75", lw=0.7)
            axis.scatter(
                rows["value"], rows["y"], c=[look.colours[n] for n in names], marker=marker,
                s=[look.sizes[n] for n in names], linewidths=0.4, edgecolors="0.2", zorder=3,
            )  # fmt: skip
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_locator(_log_ticks(plain["value"].max() / plain["value"].min()))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(3))
    if len(plain) and np.isclose(plain["value"].min(), plain["value"].max(), rtol=1e-6, atol=0):
        # What is the same for all models is drawn as one column, not as its rounding.
        middle = plain["value"].iloc[0]
        axis.set_xlim(*sorted((0.8 * middle, 1.25 * middle)) if middle else (-1, 1))
    scale = target_scale(str(target.name), table["y"])
    if scale == "percent":
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    elif scale == "log":
        axis.set_yscale("log")
    _edges(axis, table, shown, plain)
    axis.tick_params(labelsize=8)
    axis.grid(True, color="0.92", lw=0.6)
    axis.set_axisbelow(True)


def _log_ticks(spread: float) -> Locator:
    """Few labels on a logarithmic axis; less than a decade is labelled as a linear one, or it would be crowded."""
    if spread < 20:
        return MaxNLocator(3)
    return LogLocator(subs=(1.0,) if spread > 100 else (1.0, 3.0), numticks=4)


def _edges(axis: Axes, table: pd.DataFrame, shown: pd.DataFrame, plain: pd.DataFrame) -> None:
    """Say how many models lie off the scale, on which side."""
    low, high = len(shown) - len(plain), len(table) - len(shown)
    if low:
        axis.text(0.02, 0.03, f"{low} ≤ 0", transform=axis.transAxes, fontsize=7, color="0.35")
    if high:
        axis.text(0.98, 0.03, f"{high} infinite", transform=axis.transAxes, fontsize=7, color="0.35", ha="right")
    if not len(table):
        axis.text(0.5, 0.5, "no values", transform=axis.transAxes, fontsize=8, color="0.35", ha="center")


def write_tau(axis: Axes, rows: pd.DataFrame, look: Style) -> None:
    """Write tau with its interval above the panel, and the tau of each group after its marker."""
    if "all" not in rows.index:
        return
    whole = rows.loc["all"]
    text = rf"$\tau$ = {number(whole['tau'])}"
    if np.isfinite(whole["low"]):
        text += f"  [{number(whole['low'])}, {number(whole['high'])}]"
    mathematics(axis.text(0.0, 1.13, text, transform=axis.transAxes, fontsize=8, fontweight="bold"))
    groups = [g for g in look.markers if g in rows.index and np.isfinite(rows.loc[g]["tau"])]
    perfect = whole.get("ceiling", np.nan)
    parts = [f"ceiling {number(perfect)}"] if np.isfinite(perfect) else []
    parts += [f"{look.glyph(g)} {number(rows.loc[g]['tau'])}" for g in groups]
    axis.text(0.0, 1.03, "  ".join(parts), transform=axis.transAxes, fontsize=7, color="0.25")


def legends(figure: Figure, axes: Any, look: Style) -> None:
    """Say what markers and colours are."""
    markers = {group: marker for group, marker in look.markers.items() if group}
    handles = [
        Line2D([], [], ls="", marker=m, color=look.categories.get(g, "0.4"), markeredgecolor="0.2")
        for g, m in markers.items()
    ]
    # Colours that are the groups of the markers too are told already.
    others = {v: c for v, c in look.categories.items() if v not in look.markers}
    handles += [Line2D([], [], ls="", marker="o", color=c) for c in others.values()]
    names = [*(look.shown[group] for group in markers), *map(_plain, others)]
    if handles:
        columns = max(1, min(len(handles), 4, int(figure.get_figwidth() / LEGEND_ENTRY)))
        show_legend(figure, handles, names, ncols=columns, fontsize=8, frameon=False)
    if look.bar is not None:
        bar = figure.colorbar(look.bar, ax=axes, shrink=0.7, aspect=35, pad=0.02)
        bar.set_label(look.label, fontsize=9)
        bar.ax.tick_params(labelsize=8)


def _plain(label: str) -> str:
    return label.replace(";", ", ")


def symbol(data: ReportData, definition: str) -> str:
    """Return the symbol of the measure, an index below the line; the name as it stands of one that has none."""
    plain = data.symbol(definition)
    known = plain in {presentation(name).symbol.replace("lambda_", "λ") for name in data.measures}
    if known and (matched := re.fullmatch(r"([A-Za-z])_(\w+)", plain)):
        return f"${matched[1]}_{{{matched[2]}}}$"
    return as_text(plain)


def target_name(target: str) -> str:
    """Return what an axis calls a target."""
    if target.startswith("measure:"):
        return textwrap.fill(target_label(target), 22)
    return target.removeprefix("attr:").replace("_", " ").replace(".", " ")
