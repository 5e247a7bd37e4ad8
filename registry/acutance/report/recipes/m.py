"""Tau against m of m-sharpness."""

from __future__ import annotations

import pandas as pd

from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.recipes.base import printed
from acutance.report.recipes.lines import Lines


class M(Lines):
    """Scatter plots for each m of m-sharpness, and tau against it, of a sweep over ``surface.m``: Figures 31 and 32."""

    name = "m"
    paper = printed(31, 32)
    sweeps = "m"
    column = "m"
    label = "m"
    advice = "acutance sweep CONFIG --over surface.m=32,64,128, and give the sweep's folder"

    def table(self, data: ReportData) -> pd.DataFrame:
        """Refuse a run: its surface has one m."""
        raise UserError("--figure m: all measures of a run have the same m", self.advice)
