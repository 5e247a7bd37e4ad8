"""A measure against every target."""

from __future__ import annotations

from matplotlib.figure import Figure

from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe, printed
from acutance.report.scatter import scatter_grid


class Target(Recipe):
    """Sharpness against every target, radii as columns: Figures 2-5, 10-19, 21-28 and 33-44."""

    name = "target"
    paper = printed((2, 5), (10, 19), (21, 28), (33, 44))
    page = "fallback"  # readers with scripts have these plots to explore

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the grid of a definition."""
        return scatter_grid(data, key.level, key.what)

    def caption(self, key: FigureKey) -> str:
        """Return what a grid shows."""
        return f"Scatter plots of {key.what} against all targets"
