"""Figures of a ranking: values of the models with their intervals, and how far measures agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special

from acutance.analysis.ranking import GROUPS
from acutance.report.lettering import as_text
from acutance.report.style import CATEGORIES

PANELS = 24  # measures that one figure has room for
MODELS = 60  # models that a panel has room for


def values_figure(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Return a panel a measure: the models in its order, each value with its 95% interval over points.

    Models that can be the first are filled. Of many models those in front are shown.

    Args:
        table: of a ranking.
        labels: what each measure is called.
    """
    names = list(labels)[:PANELS]
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    count = min(int(table["model"].nunique()), MODELS)
    figure = Figure(figsize=(4.2 * columns, lines * (1.1 + 0.19 * count)), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, name in zip(grid, names, strict=False):
        _panel(axis, table[table["measure"] == name].sort_values("rank").head(MODELS), labels[name])
    for axis in grid[len(names) :]:
        axis.set_axis_off()
    return figure


def _panel(axis: Axes, rows: pd.DataFrame, label: str) -> None:
    place = np.arange(len(rows))[::-1]
    half = special.stdtrit(GROUPS - 1, 0.975) * rows["stderr"].fillna(0).to_numpy(float)
    values = rows["value"].to_numpy(float)
    first = (rows["rank_low"] == 1).to_numpy()
    axis.errorbar(values, place, xerr=half, fmt="none", ecolor="0.5", lw=1, capsize=2)
    for chosen, face in ((first, CATEGORIES[0]), (~first, "white")):
        axis.plot(values[chosen], place[chosen], "o", ms=5, mec=CATEGORIES[0], mfc=face)
    axis.set_yticks(place, [as_text(m) for m in rows["model"]], fontsize=7)
    axis.set_title(as_text(label), fontsize=9)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(True, axis="x", color="0.92", lw=0.6)
    axis.set_axisbelow(True)


def agreement_figure(agreement: pd.DataFrame, order: Sequence[str], labels: Mapping[str, str]) -> Figure:
    """Return the heat map of tau-b between measures, neighbours alike.

    Args:
        agreement: ``a``, ``b``, ``tau``.
        order: of the measures.
        labels: what each is called.
    """
    place = {name: i for i, name in enumerate(order)}
    grid = np.full((len(order), len(order)), np.nan)
    np.fill_diagonal(grid, 1.0)
    for row in agreement.to_dict("records"):
        i, j = place[row["a"]], place[row["b"]]
        grid[i, j] = grid[j, i] = row["tau"]
    size = 2.4 + 0.42 * len(order)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
    names = [as_text(labels[name]) for name in order]
    axis.set_xticks(range(len(order)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(order)), names, fontsize=7)
    for i, j in np.argwhere(np.isfinite(grid)):
        shade = "white" if abs(grid[i, j]) > 0.6 else "black"
        axis.text(j, i, f"{grid[i, j]:.2f}", ha="center", va="center", fontsize=6, color=shade)
    figure.colorbar(image, label="Kendall's τ between rankings")
    return figure
