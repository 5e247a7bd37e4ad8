"""A measure layer by layer: its values, and how well they predict."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.lettering import show_legend
from acutance.report.recipes.base import Recipe
from acutance.report.scatter import target_name
from acutance.report.settings import level_of
from acutance.report.style import CATEGORIES, MARKERS, style

COLUMN = "spec.parameters"
ADVICE = "list patterns for a measure, as parameters: [blocks.{0..3}.*, head.*]"
TARGETS = 6  # lines that one panel tells apart


class Profile(Recipe):
    """The values of a measure on parts of the network, one line a model, and tau with its interval below.

    Of a measure whose ``parameters`` are a list of patterns, ``blocks.{0..3}.*`` say; in the order in which they stand.
    """

    name = "profile"
    page = "section"
    heading = "Layer by layer"

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level, measure and radius."""
        found = list(self._families(data))
        if not found:
            raise UserError("--figure profile: no measure of this run is taken on several parts of the models", ADVICE)
        return found

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the profile of a measure."""
        rows, level = self._families(data)[key], level_of(key, data)
        parts = list(dict.fromkeys(rows[COLUMN]))
        rho = float(rows["spec.rho"].iloc[0]) if "spec.rho" in rows and rows["spec.rho"].notna().all() else None
        names = {part: str(rows.loc[rows[COLUMN] == part, "definition"].iloc[0]) for part in parts}
        figure = Figure(figsize=(max(5.0, 1.6 + 0.55 * len(parts)), 5.6), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        self._values(above, data, level, [names[part] for part in parts], rho)
        self._taus(figure, below, data, level, [names[part] for part in parts], rho)
        below.set_xticks(range(len(parts)), parts, rotation=60 if max(map(len, parts)) > 6 else 0, fontsize=8)
        figure.suptitle(f"{key.what}\n{level.replace('architecture=', '')}".strip(), fontsize=11)
        return figure

    def _values(self, axis: Axes, data: ReportData, level: str, names: list[str], rho: float | None) -> None:
        models = data.members(level)
        look = style(data, models)
        table = pd.DataFrame({name: data.values(name, rho)["value"] for name in names})
        for model in map(str, models["model"]):
            if model in table.index:
                values = table.loc[model, names].to_numpy(float)
                axis.plot(range(len(names)), values, color=look.colours[model], lw=1, marker=".", ms=4, alpha=0.8)
        finite = table.to_numpy(float)[np.isfinite(table.to_numpy(float))]
        if len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min():
            axis.set_yscale("log")
        axis.set_ylabel("value, a line a model")
        axis.grid(True, axis="y", color="0.92", lw=0.6)

    def _taus(
        self, figure: Figure, axis: Axes, data: ReportData, level: str, names: list[str], rho: float | None
    ) -> None:
        targets = (data.outcomes or data.targets)[:TARGETS]
        lines = []
        for i, target in enumerate(targets):
            rows = [data.tau(name, rho, target, level) for name in names]
            tau, low, high = (
                np.array([float(row.loc["all", column]) if "all" in row.index else np.nan for row in rows])
                for column in ("tau", "low", "high")
            )
            x, colour = np.arange(len(names)), CATEGORIES[i % len(CATEGORIES)]
            (line,) = axis.plot(x, tau, color=colour, marker=MARKERS[i % len(MARKERS)], ms=4.5, lw=1.3)
            axis.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
            lines.append(line)
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set_ylim(-1.05, 1.05)
        axis.set_ylabel("Kendall's τ, 95% interval")
        axis.grid(True, axis="y", color="0.92", lw=0.6)
        show_legend(figure, lines, [target_name(target) for target in targets], ncols=2, fontsize=8, frameon=False)

    def _families(self, data: ReportData) -> dict[FigureKey, pd.DataFrame]:
        """Return the definitions of each figure: those that differ in the part of the network alone."""
        table = data.named
        if COLUMN not in table:
            return {}
        table = table[table[COLUMN].notna()].drop_duplicates(["definition", "within", *_radius(table)])
        others = [c for c in table.columns if c.startswith("spec.") and c != COLUMN]
        families: dict[FigureKey, pd.DataFrame] = {}
        for (level, *_), rows in table.groupby(["within", "measure", *others], dropna=False, sort=False):
            if rows[COLUMN].nunique() > 1:
                what = str(rows["definition"].iloc[0]).replace(f" [{rows[COLUMN].iloc[0]}]", "")
                if _radius(rows) and rows["spec.rho"].notna().all():
                    what += f", ρ = {rows['spec.rho'].iloc[0]:g}"
                families[FigureKey(self.name, "" if level == "all" else str(level), what)] = rows
        return families


def _radius(table: pd.DataFrame) -> list[str]:
    return ["spec.rho"] if "spec.rho" in table else []
