"""Tau with its interval against a number: what recipes of radii, of the search's steps and of m share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe
from acutance.report.settings import of_sweep, settings_figures
from acutance.report.sweeps import panel_title, sweep_figure, sweep_panels


class Lines(Recipe):
    """Tau with its interval against a number, one line a definition.

    Attributes:
        column: of the tables, that has the number.
        label: what the axis calls it.
        advice: what a run needs in order to have several of it.
        logarithmic: whether the axis is.
    """

    column: ClassVar[str]
    label: ClassVar[str]
    advice: ClassVar[str]
    logarithmic: ClassVar[bool] = True

    def table(self, data: ReportData) -> pd.DataFrame:
        """Return the correlations of definitions that have the number."""
        table = data.correlations
        if self.column not in table or table[self.column].isna().all():
            raise UserError(f"--figure {self.name}: no measure of this run has {self.label}", self.advice)
        return table[table[self.column].notna()]

    def panels(self, table: pd.DataFrame, name: str) -> dict[FigureKey, pd.DataFrame]:
        """Return the rows of each figure."""
        return sweep_panels(table, name, self.name)

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level and target."""
        return list(self.panels(self.table(data), self.column))

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the lines of a level and target."""
        return self.lines(self.panels(self.table(data), self.column)[key], key, self.column)

    def lines(self, rows: pd.DataFrame, key: FigureKey, name: str) -> Figure:
        """Return the figure of some rows."""
        return sweep_figure(rows, name, panel_title(key, rows), self.label, self.logarithmic)

    def draw_sweep(self, table: pd.DataFrame, runs: Mapping[str, ReportData], name: str) -> dict[FigureKey, Figure]:
        """Return the lines, and a row of scatter plots for each value of the setting."""
        drawn = {key: self.lines(rows, key, name) for key, rows in self.panels(table, name).items()}
        return drawn | (settings_figures(of_sweep(runs, self.name), self.label) if len(runs) > 1 else {})
