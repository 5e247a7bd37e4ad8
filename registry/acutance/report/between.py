"""The same measure at two values of a swept setting, on original and augmented data say: Figure 29 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from acutance.analysis.matrix import matrix
from acutance.errors import UserError
from acutance.report.data import ReportData, number
from acutance.report.figures import FigureKey, save_drawn
from acutance.report.lettering import mathematics
from acutance.report.scatter import panel
from acutance.report.style import style


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
    found = one.values(definition, rho).join(two.values(definition, rho)["value"].rename("other"), how="inner")
    return found[found.index.isin(one.members(level)["model"])].astype(float)


def save_between(runs: Mapping[str, ReportData], name: str, folder: Path) -> list[Path]:
    """Draw every level and definition that all runs of a sweep have, and return the PNGs.

    Raises:
        UserError: when there are none.
    """
    if len(runs) < 2:
        raise UserError("--figure pairwise: the sweep has fewer than two runs in its folder", "run the sweep again")
    first, *others = runs.values()
    shared = [
        (level, definition)
        for level in first.levels
        for definition in first.definitions
        if all(level in run.levels and definition in run.definitions for run in others)
    ]
    figures = {
        FigureKey("pairwise", "" if level == "all" else level, definition): between_figure(
            runs, name, level, definition
        )
        for level, definition in shared
    }
    if not figures:
        raise UserError(f"--figure pairwise: no measure has values at every {name} of the sweep", "see its results.csv")
    return save_drawn(figures, folder)
