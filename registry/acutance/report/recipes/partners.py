"""Models against each other, by what measures of pairs say of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from acutance.analysis.text import number
from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.lettering import as_text
from acutance.report.recipes.base import Recipe

WRITTEN = 12  # models whose values have room in their squares
NAMED = 80  # models whose names have room beside the matrix; of more every second, third ... one
LONGEST = 28  # letters of a name


class Partners(Recipe):
    """The values of all pairs of models, as a matrix for each measure that gives some; the report shows them."""

    name = "partners"
    page = "section"
    heading = "Pairs of models"

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition that has values of pairs."""
        found = [key for key in super().keys(data) if len(data.pair_rows(key.level, key.what))]
        if not found:
            raise UserError(
                f"--figure {self.name}: no measure of this run has values of pairs",
                "add one that compares models to the study",
            )
        return found

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the matrix: a row for each model, a column for each partner, replicates averaged."""
        rows = data.pair_rows(key.level, key.what)
        present = set(rows["model"]) | set(rows["partner"])
        names = [name for name in data.members(key.level)["model"].astype(str) if name in present]
        values = rows.groupby(["model", "partner"])["value"].mean().unstack().reindex(index=names, columns=names)
        side = min(max(0.5 * len(names), 2.2), 9.0)
        figure = Figure(figsize=(side + 2.6, side + 2.2), layout="constrained")
        axis = figure.subplots()
        axis.set_facecolor("0.9")  # a pair without a value, and a model with itself
        image = axis.imshow(np.ma.masked_invalid(values.to_numpy(float)), cmap="viridis")
        every = -(-len(names) // NAMED)
        shown = [_short(name) for name in names[::every]]
        axis.set_xticks(range(0, len(names), every), shown, rotation=90)
        axis.set_yticks(range(0, len(names), every), shown)
        axis.tick_params(labelsize=8 if len(names) <= WRITTEN else 5, length=0)
        axis.set_xlabel("partner", fontsize=8)
        if len(names) <= WRITTEN:
            _write(axis, image, values.to_numpy(float))
        figure.colorbar(image, ax=axis, shrink=0.7, pad=0.02)
        figure.suptitle(f"{key.what}\n{key.level.replace('architecture=', '')}", fontsize=10)
        return figure

    def caption(self, key: FigureKey) -> str:
        """Return what a matrix shows."""
        return f"{key.what} of each model and each partner"


def _short(name: str) -> str:
    """Return a name as it has room, its middle left out where it is long."""
    if len(name) > LONGEST:
        name = f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}"
    return as_text(name)


def _write(axis: Any, image: Any, values: np.ndarray) -> None:
    """Write the values into their squares, light on dark."""
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            colour = "black" if image.norm(values[i, j]) > 0.6 else "white"
            axis.text(j, i, number(float(values[i, j])), ha="center", va="center", fontsize=6, color=colour)
