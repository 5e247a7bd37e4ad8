"""Measures against each other, and each against itself at another value of a swept setting."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from acutance.analysis.matrix import matrix
from acutance.analysis.text import number
from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.lettering import as_text, mathematics
from acutance.report.recipes.base import ANY, Recipe, printed
from acutance.report.scatter import panel
from acutance.report.style import style

PANELS = 9  # measures that a matrix of scatter plots has room for
SQUARES = 150  # measures that a heat map has room for: of more of them those that the page shows


class Pairwise(Recipe):
    """Measures against each other, as a matrix of tau and, for few, of scatter plots: Figures 7 and 29.

    Many stand in the order of their clusters (``pairwise.csv``), and what says the same has a frame.
    Of a sweep: each measure at the first value of the setting against itself at the others.
    """

    name = "pairwise"
    paper = printed(7, 29)
    sweeps = ANY

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one or two figures a level."""
        sizes = {level: pair_values(data, level).shape[1] for level in data.levels}
        if max(sizes.values(), default=0) < 2:
            raise UserError(
                "--figure pairwise: the run has fewer than two measures with values", "add measures to the study"
            )
        keys = [FigureKey(self.name, level) for level, size in sizes.items() if size > 1]
        return keys + [FigureKey(self.name, level, "scatter") for level, size in sizes.items() if 1 < size <= PANELS]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the matrix of a level."""
        return scatter_matrix(data, key.level) if key.what == "scatter" else tau_matrix(data, key.level)

    def draw_sweep(self, table: pd.DataFrame, runs: Mapping[str, ReportData], name: str) -> dict[FigureKey, Figure]:
        """Return every level and definition that all runs of a sweep have."""
        if len(runs) < 2:
            raise UserError("--figure pairwise: the sweep has fewer than two runs in its folder", "run the sweep again")
        first, *others = runs.values()
        figures = {
            FigureKey(self.name, "" if level == "all" else level, definition): between_figure(
                runs, name, level, definition
            )
            for level in first.levels
            for definition in first.definitions
            if all(level in run.levels and definition in run.definitions for run in others)
        }
        if not figures:
            raise UserError(
                f"--figure pairwise: no measure has values at every {name} of the sweep", "see its results.csv"
            )
        return figures


def pair_values(data: ReportData, level: str) -> pd.DataFrame:
    """Return the values of the models of a level: a row a model, a column for each definition and radius."""
    columns = {}
    for definition in data.definitions:
        for rho in data.radii(definition):
            name = definition if rho is None else f"{definition}, ρ = {rho:g}"
            columns[name] = data.values(definition, rho)["value"]
    table = pd.DataFrame(columns)
    return table[table.index.isin(data.members(level)["model"])].dropna(axis="columns", how="all")


def tau_matrix(data: ReportData, level: str) -> Figure:
    """Return the heat map of tau-b between all definitions and radii of one level: the numbers of ``pairwise.csv``."""
    values = pair_values(data.whole, level)
    if values.shape[1] > SQUARES:
        values = pair_values(data, level)
    clustered = matrix(values)
    names = clustered.order if values.shape[1] > PANELS else list(values.columns)
    taus = clustered.tau.loc[names, names].to_numpy()
    size = 0.32 if len(names) > PANELS else 0.5
    figure = Figure(figsize=(3.6 + size * len(names), 2.9 + size * len(names)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(taus, cmap="RdBu_r", vmin=-1, vmax=1)
    shown = [as_text(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=90)
    axis.set_yticks(range(len(names)), shown)
    axis.tick_params(labelsize=7, length=0)
    for i, j in np.ndindex(taus.shape):
        if np.isfinite(taus[i, j]) and len(names) <= 24:
            colour = "white" if abs(taus[i, j]) > 0.6 else "black"
            axis.text(j, i, number(float(taus[i, j])), ha="center", va="center", fontsize=6, color=colour)
    if len(names) > PANELS:
        _frames(axis, [clustered.clusters[name] for name in names])
    bar = figure.colorbar(image, ax=axis, shrink=0.5, aspect=25, pad=0.02)
    mathematics(bar.ax.yaxis.label)
    bar.set_label(r"Kendall's $\tau_b$", fontsize=8)
    figure.suptitle(f"Measures against each other\n{level.replace('architecture=', '')}", fontsize=10)
    return figure


def _frames(axis: Any, clusters: list[int]) -> None:
    """Draw a frame around each cluster of several neighbours."""
    start = 0
    for _, group in groupby(clusters):
        count = len(list(group))
        if count > 1:
            axis.add_patch(Rectangle((start - 0.5, start - 0.5), count, count, fill=False, lw=1.2, edgecolor="black"))
        start += count


def scatter_matrix(data: ReportData, level: str) -> Figure:
    """Return a scatter plot for every pair of definitions below the diagonal, and their tau above it."""
    values = pair_values(data, level)
    taus, names = matrix(values).tau.to_numpy(), list(values.columns)
    look = style(data, data.members(level))
    size = len(names)
    figure = Figure(figsize=(1.2 + 1.9 * size, 1.2 + 1.7 * size), layout="constrained")
    axes: Any = figure.subplots(size, size, squeeze=False)
    for i, j in np.ndindex(size, size):
        axis = axes[i, j]
        if i > j:
            x = pd.DataFrame({"value": values[names[j]], "stderr": np.nan})
            panel(axis, x, values[names[i]], look)
        else:
            axis.set_axis_off()
            text = textwrap.fill(names[i], 16) if i == j else number(float(taus[i, j]))
            axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=8 if i == j else 11, transform=axis.transAxes)
    figure.suptitle(f"Measures against each other\n{level.replace('architecture=', '')}", fontsize=10)
    return figure


def between_figure(runs: Mapping[str, ReportData], name: str, level: str, definition: str) -> Figure:
    """Return each model's value at the first setting against its value at the others; equal values lie on the line.

    Args:
        runs: of a sweep, by the value of the setting.
        name: of the setting.
        level: a level of ``within``.
        definition: name of a definition; radii are columns.
    """
    (first, start), *others = runs.items()
    radii = start.radii(definition)
    look = style(start, start.members(level))
    figure = Figure(figsize=(1.5 + 2.45 * len(radii), 1.35 + 2.1 * len(others)), layout="constrained")
    axes: Any = figure.subplots(len(others), len(radii), squeeze=False)
    for i, (value, run) in enumerate(others):
        for j, rho in enumerate(radii):
            pair = paired(start, run, level, definition, rho)
            axis = axes[i, j]
            panel(axis, pair[["value", "stderr"]], pair["other"], look)
            tau = float(matrix(pair[["value", "other"]]).tau.iloc[0, 1])
            radius = "" if rho is None else rf"$\rho$ = {rho:g}, "
            mathematics(axis.set_title(rf"{radius}$\tau_b$ = {number(tau)}", fontsize=8))
            if axis.get_xscale() == "log" and (pair["other"] > 0).all():
                axis.set_yscale("log")
            equal = np.sort(pair["value"].to_numpy(float))
            axis.plot(equal[np.isfinite(equal)], equal[np.isfinite(equal)], color="0.6", lw=0.7)
            axis.set_xlabel(f"{name} = {first}")
            axis.set_ylabel(f"{name} = {value}")
    figure.suptitle(f"{definition}\n{level.replace('architecture=', '')}", fontsize=11)
    return figure


def paired(one: ReportData, two: ReportData, level: str, definition: str, rho: float | None) -> pd.DataFrame:
    """Return ``value`` and ``stderr`` of the models in one run and their value in the ``other``."""
    table = one.values(definition, rho).join(two.values(definition, rho)["value"].rename("other"), how="inner")
    return table[table.index.isin(one.members(level)["model"])].astype(float)
