"""Figures of spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance import UserError
from acutance.report.curves import stacked_curves, who_gives
from acutance.report.recipes import FigureKey, Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from acutance.report.data import ReportData


class Density(Recipe):
    """Spectral densities of the rescaled Hessian, a panel a definition, a line a model; not in the paper."""

    name = "density"

    def definitions(self, data: ReportData, level: str) -> list[str]:
        """Return the definitions that have densities."""
        rows = {name: data.curve_rows(level, name) for name in data.definitions}
        return [name for name, curves in rows.items() if "density" in set(curves["curve"])]

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level."""
        keys = [FigureKey(self.name, level) for level in data.levels if self.definitions(data, level)]
        if not keys:
            raise UserError("--figure density: no measure of this run has a spectral density", who_gives("density"))
        return keys

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the densities of a level."""
        return stacked_curves(data, key.level, self.definitions(data, key.level), "density", "Spectral densities")
