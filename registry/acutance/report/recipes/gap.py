"""Errors beside generalization gaps."""

from __future__ import annotations

from matplotlib.figure import Figure

from acutance.errors import UserError
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe, printed
from acutance.report.scatter import scatter_grid

GAP = "generalization_gap"


class Gap(Recipe):
    """Each test error and, beside it, the generalization gap on that split: Figures 8 and 9."""

    name = "gap"
    paper = printed(8, 9)

    def columns(self, data: ReportData) -> list[str]:
        """Return the gaps of the study, each after the error it belongs to where that is a target too."""
        gaps: list[str] = []
        for target in data.targets:
            split = "test" if target == GAP else target[:-4] if target.endswith((".gap", "_gap")) else ""
            if split:
                gaps += [error for error in (f"{split}_error", f"{split}.error") if error in data.targets]
                gaps.append(target)
        return list(dict.fromkeys(gaps))

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition."""
        if not self.columns(data):
            raise UserError(
                f"--figure gap: {GAP} is not among the targets of the study", "add it to targets, or SPLIT.gap"
            )
        return super().keys(data)

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the columns of a definition, a row for each radius."""
        return scatter_grid(data, key.level, key.what, self.columns(data), beside=True)
