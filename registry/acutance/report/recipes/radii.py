"""Tau against the radius."""

from __future__ import annotations

import pandas as pd

from acutance.report.keys import FigureKey
from acutance.report.recipes.lines import Lines
from acutance.report.sweeps import sweep_panels


class Radii(Lines):
    """Tau with its interval against the radius, for every definition and target: Tables 1-4 as curves."""

    name = "radii"
    column = "spec.rho"
    label = "radius ρ"
    advice = "run a study of measures with rho"

    def panels(self, table: pd.DataFrame, name: str) -> dict[FigureKey, pd.DataFrame]:
        """Return the rows of each figure: a definition is one line, whatever its radius."""
        return sweep_panels(table, name, self.name, lambda row, namer: namer(row))
