"""Tau against the steps of a search."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import printed
from acutance.report.recipes.lines import Lines
from acutance.report.settings import level_of, of_run, settings_figure


class Iterations(Lines):
    """Scatter plots for each number of steps of the search, and tau against it: Figure 30.

    Of a sweep over ``steps``, or a study that lists several.
    """

    name = "iterations"
    paper = printed(30)
    sweeps = "steps"
    column = "spec.steps"
    label = "iterations"
    advice = "list several steps for a measure, or acutance sweep CONFIG --over measures.0.steps=5,20,50"

    def table(self, data: ReportData) -> pd.DataFrame:
        """Return the correlations of measures that have several numbers of steps."""
        table = super().table(data)
        if table[self.column].nunique() < 2:
            raise UserError("--figure iterations: all measures of this run have the same number of steps", self.advice)
        return table

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level and target, and one a definition of these."""
        return [*super().keys(data), *of_run(data, self.sweeps, self.name)]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the lines of a level and target, or the scatter plots of a definition."""
        scatters = of_run(data, self.sweeps, self.name)
        if key not in scatters:
            return super().draw(data, key)
        rows, title, target = scatters[key]
        return settings_figure(rows, self.label, title, level_of(key, data), target)
