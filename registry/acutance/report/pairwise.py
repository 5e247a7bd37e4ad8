"""Measures against each other: which of them rank the models alike."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from acutance.analysis.matrix import matrix
from acutance.report.data import ReportData, number
from acutance.report.lettering import as_text, mathematics
from acutance.report.scatter import panel
from acutance.report.style import style

PANELS = 9  # measures that a matrix of scatter plots has room for


def pair_values(data: ReportData, level: str) -> pd.DataFrame:
    """Return the values of the models of a level: a row a model, a column for each definition and radius."""
    columns = {}
    for definition in data.definitions:
        for rho in data.radii(definition):
            name = definition if rho is None else f"{definition}, ρ = {rho:g}"
            columns[name] = data.values(definition, rho)["value"]
    found = pd.DataFrame(columns)
    return found[found.index.isin(data.members(level)["model"])].dropna(axis="columns", how="all")


def tau_matrix(data: ReportData, level: str) -> Figure:
    """Return the heat map of tau-b between all definitions and radii of one level: the numbers of ``pairwise.csv``."""
    values = pair_values(data, level)
    taus, names = matrix(values).tau.to_numpy(), list(values.columns)
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
    bar = figure.colorbar(image, ax=axis, shrink=0.5, aspect=25, pad=0.02)
    mathematics(bar.ax.yaxis.label)
    bar.set_label(r"Kendall's $\tau_b$", fontsize=8)
    figure.suptitle(f"Measures against each other\n{level.replace('architecture=', '')}", fontsize=10)
    return figure


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
