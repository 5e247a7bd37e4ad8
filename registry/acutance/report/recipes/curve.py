"""Curves that measures give beside their values."""

from __future__ import annotations

from matplotlib.figure import Figure

from acutance.errors import UserError
from acutance.report.curves import curve_figure, who_gives
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe


class Curve(Recipe):
    """Every curve that a measure gives beside its value; the report shows them."""

    name = "curve"
    page = "section"
    heading = "Curves of measures"

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition that has curves."""
        with_curves = [key for key in super().keys(data) if len(data.curve_rows(key.level, key.what))]
        if not with_curves:
            raise UserError(f"--figure {self.name}: no measure of this run has curves", who_gives())
        return with_curves

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the curves of a definition."""
        return curve_figure(data, key.level, key.what)

    def caption(self, key: FigureKey) -> str:
        """Return what the curves of a definition are."""
        return f"Curves of {key.what}, one a model"
