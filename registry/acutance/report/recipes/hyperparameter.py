"""Measures against what the models were trained with."""

from __future__ import annotations

import dataclasses

import pandas as pd
from matplotlib.figure import Figure

from acutance.analysis.tables import correlations
from acutance.errors import UserError
from acutance.report.data import ReportData, column
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe, printed
from acutance.report.scatter import scatter_grid


class Hyperparameter(Recipe):
    """Sharpness against attributes of the models, the learning rate say: Figures 1, 6 and 20.

    Drawn are the targets ``attr:NAME`` of the study, and the attribute that colours the points where it is a number.
    """

    name = "hyperparameter"
    paper = printed(1, 6, 20)

    def attributes(self, data: ReportData) -> list[str]:
        """Return the attributes as targets."""
        attributes = dict.fromkeys(t for t in data.targets if t.startswith("attr:"))
        for name in (data.figures.get("colour"), data.figures.get("size")):
            at = column(data.models, name) if name else None
            if at and pd.api.types.is_numeric_dtype(data.models[at]) and data.models[at].dtype != bool:
                attributes[f"attr:{name}"] = None
        return list(attributes)

    def prepare(self, data: ReportData) -> ReportData:
        """Correlate with the attributes that are no targets of the study."""
        missing = [name for name in self.attributes(data) if name not in data.targets]
        if not missing:
            return data
        config = data.config
        more = correlations(
            data.models, data.measured.drop(columns="definition"), targets=missing, groups=data.groups,
            within=config["within"], nonfinite="rank_max", seed=config["seed"],
        )  # fmt: skip
        return dataclasses.replace(data, correlations=pd.concat([data.correlations, more], ignore_index=True))

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition."""
        if not self.attributes(data):
            raise UserError(
                "--figure hyperparameter: the study names no attribute that is a number",
                "add attr:NAME to targets, or name one in figures: colour",
            )
        return super().keys(data)

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the grid of a definition, a row for each attribute."""
        return scatter_grid(data, key.level, key.what, self.attributes(data))
