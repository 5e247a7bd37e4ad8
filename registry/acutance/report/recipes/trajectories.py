"""Curves of trainings: values, targets and what was logged, against the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acutance.analysis.labels import spec_fields, target_label
from acutance.errors import UserError
from acutance.presentation import presentation
from acutance.report.data import ReportData, column, target_values
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe
from acutance.report.style import CATEGORIES

RUN, STEP, EDGE = "run", "step", "stability_threshold"
ABOVE = 4  # panels of measures in one figure
RUNS = 8  # that have a colour and a place in the legend each
LOG = 20.0  # from which ratio of the largest to the smallest value an axis is logarithmic
COLOURS = tuple(colour for colour in CATEGORIES if colour not in ("#F0E442",))  # yellow lines are lost on white


class Trajectories(Recipe):
    """Each measure against the step of training, runs overlaid, with targets, logged losses and learning rates below.

    Of runs whose models say which training they are of and at which step: what ``acutance.monitor`` writes, and pools
    of checkpoints. A dashed line in the colour of its run is the edge of stability, 2 / learning rate for plain
    gradient descent, in panels of measures that are curvatures in the weights themselves (``Traits.edge``).
    """

    name = "trajectories"
    page = "section"
    heading = "Along the training"

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure for every few definitions."""
        if not len(_points(data)):
            raise UserError(
                f"--figure {self.name}: no two models of this run are steps of one training",
                "measure while it trains (acutance.monitor), or give a pool whose models have attributes run and step",
            )
        count = -(-len(data.definitions) // ABOVE)
        return [FigureKey(self.name, "", str(i + 1) if count > 1 else "") for i in range(count)]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the panels above each other, on one axis of steps."""
        points = _points(data)
        first = (int(key.what or 1) - 1) * ABOVE
        definitions = data.definitions[first : first + ABOVE]
        beside = list(_beside(data, points))
        figure = Figure(figsize=(7.0, 0.7 + 1.75 * len(definitions) + 1.2 * len(beside)), layout="constrained")
        heights = [1.75] * len(definitions) + [1.2] * len(beside)
        axes: Any = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
        colours = _colours(points)
        for axis, definition in zip(axes[:, 0], definitions, strict=False):
            _measure_panel(axis, data, points, definition, colours)
        for axis, (label, values) in zip(axes[len(definitions) :, 0], beside, strict=True):
            _panel(axis, points, values, None, colours)
            axis.set_ylabel(label, fontsize=8)
        axes[-1, 0].set_xlabel("step")
        if 1 < len(colours):
            shown = list(colours)[:RUNS]
            handles = [Line2D([], [], color=colours[run], marker=".", ms=3.5, lw=1.0) for run in shown]
            axes[0, 0].legend(
                handles, shown, fontsize=7, loc="best", ncols=2, title=_more(len(colours)), title_fontsize=7
            )
        figure.suptitle(self.heading if len(colours) > 1 else f"{self.heading}: {next(iter(colours))}", fontsize=11)
        return figure

    def caption(self, key: FigureKey) -> str:
        """Return what the panels are."""
        return "Measures, targets and learning rate against the step of training, a line a run"


def _points(data: ReportData) -> pd.DataFrame:
    """Return run and step of the models, by model in the order of their steps, of runs with two steps or more."""
    models = data.models[data.models["admitted"].astype(bool)]
    run, step = column(models, RUN), column(models, STEP)
    if run is None or step is None:
        return pd.DataFrame(columns=[RUN, STEP])
    found = pd.DataFrame({RUN: models[run].map(str), STEP: pd.to_numeric(models[step], errors="coerce")})
    found.index = pd.Index(models["model"].map(str))
    found = found[found[STEP].notna() & models[run].notna().to_numpy()]
    several = found.groupby(RUN)[STEP].transform("nunique") > 1
    return found[several].sort_values([RUN, STEP], kind="stable")


def _beside(data: ReportData, points: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield (label, values by model) of the panels below: targets, what was logged as loss, learning rates."""
    for target in data.targets:
        values = target_values(data.models, target)
        if not target.startswith("attr:") and values.reindex(points.index).notna().any():
            yield target_label(target).replace("_", " "), values
    models = data.models.set_index(data.models["model"].map(str))
    for name in ("loss", "learning_rate"):
        at = column(models, name)
        if at is not None and (values := pd.to_numeric(models[at], errors="coerce")).notna().any():
            yield f"logged {name}" if name == "loss" else "learning rate", values


def _colours(points: pd.DataFrame) -> dict[str, Any]:
    """Return a colour for each run: those behind the first few share grey."""
    runs = list(dict.fromkeys(points[RUN]))
    return {run: COLOURS[i % len(COLOURS)] if i < RUNS else "0.75" for i, run in enumerate(runs)}


def _more(runs: int) -> str | None:
    return f"and {runs - RUNS} more, grey" if runs > RUNS else None


def _measure_panel(
    axis: Axes, data: ReportData, points: pd.DataFrame, definition: str, colours: Mapping[str, Any]
) -> None:
    """Draw a definition, a line a run and radius, with the edge of stability where it has one."""
    radii = data.radii(definition)
    for i, rho in enumerate(radii):
        table = data.values(definition, rho)
        style = ("-", "--", ":", "-.")[i % 4]
        _panel(axis, points, table["value"], table["stderr"], colours, style)
    title = definition if radii == [None] else f"{definition}, ρ = {', '.join(f'{rho:g}' for rho in radii)}"
    axis.set_title(title, fontsize=9)
    edges = _edges(data, points, definition)
    for run, steps in points.groupby(RUN, sort=False):
        values = edges.reindex(steps.index)
        if values.notna().any():
            axis.plot(steps[STEP], values, "--", lw=0.9, color=colours[str(run)], label="_")
    if edges.notna().any():
        axis.text(
            0.995, 0.03, "dashed: edge of stability", ha="right", va="bottom", fontsize=7, transform=axis.transAxes
        )


def _edges(data: ReportData, points: pd.DataFrame, definition: str) -> pd.Series:
    """Return the edge of stability by model, NaN where the definition is no curvature in the weights themselves."""
    row = data.measured[data.measured["definition"] == definition].iloc[0].to_dict()
    needed = presentation(str(row["measure"])).edge
    fields = spec_fields(row)
    at = column(data.models, EDGE)
    if not needed or at is None or any(str(fields.get(name, value)) != str(value) for name, value in needed.items()):
        return pd.Series(np.nan, index=points.index)
    edges = pd.to_numeric(data.models[at], errors="coerce")
    edges.index = pd.Index(data.models["model"].map(str))
    return edges.reindex(points.index)


def _panel(
    axis: Axes, points: pd.DataFrame, values: pd.Series, errors: pd.Series | None, colours: Mapping[str, Any],
    style: str = "-",
) -> None:  # fmt: skip
    """Draw values against steps, a line a run; a band shows the standard error where there is one."""
    seen = []
    for run, steps in points.groupby(RUN, sort=False):
        y = values.reindex(steps.index)
        there = y.notna()
        x, y = steps.loc[there, STEP].to_numpy(float), y[there].to_numpy(float)
        axis.plot(x, y, style, marker=".", ms=3.5, lw=1.0, color=colours[str(run)])
        seen.append(y)
        if errors is not None:
            e = errors.reindex(steps.index)[there].to_numpy(float)
            axis.fill_between(x, y - e, y + e, color=colours[str(run)], alpha=0.2, lw=0)
    every = np.concatenate(seen) if seen else np.array([])
    every = every[np.isfinite(every)]
    if len(every) and every.min() > 0 and every.max() / every.min() > LOG:
        axis.set_yscale("log")
    axis.tick_params(labelsize=7)
    axis.margins(x=0.02)
