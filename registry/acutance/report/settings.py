"""The same definition at several values of a setting, as scatter plots: Figures 30 to 32 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from acutance.report.data import ReportData, target_values
from acutance.report.keys import FigureKey
from acutance.report.lettering import mathematics
from acutance.report.scatter import legends, panel, symbol, target_name, write_tau
from acutance.report.style import style

Rows = Mapping[str, tuple[ReportData, str]]
"""Value of the setting, as it is written -> the tables it is in, and the definition's name there."""


def settings_figure(rows: Rows, name: str, title: str, level: str, target: str) -> Figure:
    """Return a row for each value of the setting and a column for each radius, tau above each panel.

    Args:
        rows: what is drawn.
        name: of the setting.
        title: headline.
        level: a level of ``within``.
        target: name of a target.
    """
    radii: list[Any] = list(dict.fromkeys(rho for data, definition in rows.values() for rho in data.radii(definition)))
    first = next(iter(rows.values()))[0]
    look = style(first, first.members(level))
    figure = Figure(figsize=(1.5 + 2.45 * len(radii), 1.35 + 2.1 * len(rows)), layout="constrained")
    axes: Any = figure.subplots(len(rows), len(radii), squeeze=False, sharey=True, sharex="col")
    for i, (value, (data, definition)) in enumerate(rows.items()):
        targets = target_values(data.members(level), target)
        for j, rho in enumerate(radii):
            axis = axes[i, j]
            panel(axis, data.values(definition, rho), targets, look)
            write_tau(axis, data.tau(definition, rho, target, level), look)
            if i == 0 and rho is not None:
                mathematics(axis.set_title(rf"$\rho$ = {rho:g}", fontsize=10, pad=27))
            if i == len(rows) - 1:
                mathematics(axis.set_xlabel(symbol(data, definition)))
        axes[i, 0].set_ylabel(f"{name} = {value}\n{target_name(target)}")
    legends(figure, axes, look)
    figure.suptitle(f"{title}\n{level.replace('architecture=', '')}", fontsize=11)
    return figure


def of_run(data: ReportData, field: str, recipe: str) -> dict[FigureKey, tuple[Rows, str, str]]:
    """Return the figures of a run that has definitions at several values of a spec's field: (rows, title, target)."""
    column = f"spec.{field}"
    table = data.named[data.named[column].notna()].drop_duplicates(["definition", "within"])
    others = [c for c in table.columns if c.startswith("spec.") and c not in (column, "spec.rho")]
    figures: dict[FigureKey, tuple[Rows, str, str]] = {}
    for (level, *_), part in table.groupby(["within", "measure", *others], dropna=False, sort=False):
        part = part.sort_values(column)
        if part[column].nunique() < 2:
            continue
        rows = {f"{row[column]:g}": (data, str(row["definition"])) for row in part.to_dict("records")}
        title = str(part["definition"].iloc[0]).replace(f", {field} = {part[column].iloc[0]:g}", "")
        figures |= _figures(rows, recipe, title, str(level), data.targets)
    return figures


def of_sweep(runs: Mapping[str, ReportData], recipe: str) -> dict[FigureKey, tuple[Rows, str, str]]:
    """Return the figures of a sweep: of each definition that every run has by the same name, at every level."""
    first, *others = runs.values()
    figures: dict[FigureKey, tuple[Rows, str, str]] = {}
    for level in first.levels:
        for definition in first.definitions:
            if all(level in run.levels and definition in run.definitions for run in others):
                rows = {value: (run, definition) for value, run in runs.items()}
                targets = [t for t in first.targets if all(t in run.targets for run in others)]
                figures |= _figures(rows, recipe, definition, level, targets)
    return figures


def _figures(
    rows: Rows, recipe: str, title: str, level: str, targets: list[str]
) -> dict[FigureKey, tuple[Rows, str, str]]:
    where = "" if level == "all" else level
    return {FigureKey(recipe, where, f"{title}, {target}"): (rows, title, target) for target in targets}


def level_of(key: FigureKey, data: ReportData) -> str:
    """Return the level of ``within`` that a figure is of."""
    return key.level or (data.levels[0] if len(data.levels) == 1 else "all")


def settings_figures(figures: Mapping[FigureKey, tuple[Rows, str, str]], name: str) -> dict[FigureKey, Figure]:
    """Return the pictures of ``of_run`` or ``of_sweep``."""
    drawn = {}
    for key, (rows, title, target) in figures.items():
        data = next(iter(rows.values()))[0]
        drawn[key] = settings_figure(rows, name, title, level_of(key, data), target)
    return drawn
