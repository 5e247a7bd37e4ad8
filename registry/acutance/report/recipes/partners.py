"""Models against each other, by what measures of pairs say of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from acutance.analysis.matrix import order_of
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
    """The values of all pairs of models, as a matrix for each measure that gives some; the report shows them.

    Models with alike values stand beside each other.
    """

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
        order = order_of(profile_distances(values.to_numpy(float)))
        values, names = values.iloc[order, order], [names[i] for i in order]
        side = min(max(0.5 * len(names), 2.2), 9.0)
        figure = Figure(figsize=(side + 2.6, side + 2.2), layout="constrained")
        axis = figure.subplots()
        axis.set_facecolor("0.9")  # a pair without a value, and a model with itself
        colours, norm = _colours(values.to_numpy(float))
        image = axis.imshow(np.ma.masked_invalid(values.to_numpy(float)), cmap=colours, norm=norm)
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


def profile_distances(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return how far the values of two models with all others lie apart, (M, M).

    .. math:: d_{ij}^2 = \frac{1}{|K|} \sum_{k \in K} (s_{ik} - s_{jk})^2, \quad s = (v + v^\top)/2

    with K the models other than i and j with which both have a value, so that it does not matter whether large values
    are near or far. Two models without such a K are as far apart as the farthest.
    """
    both = np.stack([pairs, pairs.T])
    there = ~np.isnan(both)
    mean = np.where(there, both, 0).sum(0) / np.maximum(there.sum(0), 1)
    known = there.any(0) & ~np.eye(len(pairs), dtype=bool)
    # In units of their spread, so that squares lose nothing.
    values = mean[known] if known.any() else np.zeros(1)
    spread = float(values.std()) or 1.0
    s = np.where(known, (mean - values.mean()) / spread, 0.0)
    m = known.astype(float)
    count = m @ m.T
    sums = (s * s) @ m.T + m @ (s * s).T - 2 * s @ s.T
    with np.errstate(invalid="ignore", divide="ignore"):
        distance: NDArray[np.float64] = np.sqrt(np.maximum(sums, 0) / count)
    distance[count == 0] = np.nan
    farthest = float(np.nanmax(distance)) if np.isfinite(distance).any() else 1.0
    distance[count == 0] = farthest
    np.fill_diagonal(distance, 0)
    return distance


def _colours(values: NDArray[np.float64]) -> tuple[Colormap | str, Normalize]:
    """Return colours around zero where values have both signs, else from the smallest to the largest."""
    found = values[np.isfinite(values)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    if low < 0 < high:
        most = max(-low, high)
        return "RdBu_r", TwoSlopeNorm(0, -most, most)
    return "viridis", Normalize(low, high if high > low else low + 1)


def _short(name: str) -> str:
    """Return a name as it has room, its middle left out where it is long."""
    if len(name) > LONGEST:
        name = f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}"
    return as_text(name)


def _write(axis: Any, image: Any, values: np.ndarray) -> None:
    """Write the values into their squares, light on dark."""
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            red, green, blue, _ = image.cmap(image.norm(values[i, j]))
            colour = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            axis.text(j, i, number(float(values[i, j])), ha="center", va="center", fontsize=6, color=colour)
