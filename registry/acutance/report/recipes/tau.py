"""All correlations of a level at a glance."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure

from acutance.analysis.judging import holds
from acutance.analysis.labels import target_label
from acutance.analysis.text import number
from acutance.report.cells import shown_tau
from acutance.report.data import ReportData, radius_key
from acutance.report.keys import FigureKey
from acutance.report.lettering import as_text
from acutance.report.recipes.base import Recipe


class Tau(Recipe):
    """Heat map of all correlations: Tables 1-4. As numbers: ``acutance results DIR --format latex``."""

    name = "tau"
    paper = ("Table 1", "Table 2", "Table 3", "Table 4")
    page = "file"  # the page has a table in its place

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level."""
        return [FigureKey(self.name, level) for level in data.levels]

    def keys_of_page(self, data: ReportData) -> list[FigureKey]:
        """Return the figures of levels that have correlations."""
        t = data.named
        return [key for key in self.keys(data) if t.loc[t["within"] == key.level, "tau"].notna().any()]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the heat map of a level."""
        return tau_heatmap(data, key.level)


def tau_heatmap(data: ReportData, level: str, group: str = "all") -> Figure:
    """Return the heat map: rows are definitions and radii, columns targets; cells that hold are bold.

    Cells that do not hold are pale, most where the interval includes 0; attributes and other relations stand apart, on
    the right.
    """
    t = data.named
    t = t[(t["within"] == level) & (t["group"] == group)]
    rows: list[tuple[str, float | None]] = [(d, rho) for d in data.definitions for rho in data.radii(d)]
    index = {(row["definition"], radius_key(row.get("spec.rho")), row["target"]): row for row in t.to_dict("records")}
    targets = [*data.outcomes, *data.relations]
    grid = np.full((len(rows), len(targets)), np.nan)
    figure = Figure(figsize=(4.6 + 1.05 * len(data.targets), 1.2 + 0.205 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for i, (definition, rho) in enumerate(rows):
        for j, target in enumerate(targets):
            correlation = index.get((definition, radius_key(rho), target))
            if correlation is None or not np.isfinite(correlation["tau"]):
                continue
            grid[i, j] = shown_tau(correlation)
            strong = holds(correlation)
            axis.text(
                j, i, number(correlation["tau"]) + ("*" if strong else ""), ha="center", va="center", fontsize=7,
                fontweight="bold" if strong else "normal", color="white" if abs(grid[i, j]) > 0.6 else "black",
            )  # fmt: skip
    image = axis.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axis.set_xticks(range(len(targets)), [as_text(_ticks(name)) for name in targets])
    if data.outcomes and data.relations:
        axis.axvline(len(data.outcomes) - 0.5, color="white", lw=8)
    axis.xaxis.tick_top()
    axis.set_yticks(range(len(rows)), [as_text(_name(rows, i)) for i in range(len(rows))])
    axis.tick_params(labelsize=7.5, length=0)
    start = 0
    for definition in data.definitions:
        start += len(data.radii(definition))
        axis.axhline(start - 0.5, color="white", lw=2)
    bar = figure.colorbar(image, ax=axis, shrink=0.4, aspect=25, pad=0.02)
    bar.set_label("Kendall's τ", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    title = level.replace("architecture=", "") + ("" if group == "all" else f", {group}")
    lines = [title, *textwrap.wrap(data.left_out, 40 + 12 * len(data.targets))]
    figure.suptitle("\n".join(lines), fontsize=10)
    return figure


def _ticks(target: str) -> str:
    if target.startswith("measure:"):
        return textwrap.fill(target_label(target), 14)
    return target.replace("_", "\n").replace(".", "\n")


def _name(rows: list[tuple[str, float | None]], i: int) -> str:
    """The definition's name beside its first radius only."""
    definition, rho = rows[i]
    radius = "" if rho is None else f"ρ = {rho:g}"
    return f"{definition}   {radius}" if i == 0 or rows[i - 1][0] != definition else radius
