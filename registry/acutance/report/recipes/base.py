"""What a recipe of figures is.

"The paper" is Andriushchenko et al. (2023), A Modern Look at the Relationship between Sharpness and Generalization. A
recipe makes a figure of the paper in the sense that the same panels come out of a study of the same models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from acutance.errors import UserError
from acutance.report.keys import FigureKey

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from acutance.report.data import ReportData

ANY = "*"  # of ``Recipe.sweeps``

Place = Literal["", "file", "fallback", "section"]


def printed(*spans: int | tuple[int, int]) -> tuple[str, ...]:
    """Return the figures of the paper with these numbers: ``printed(1, (3, 5))`` are Figures 1, 3, 4 and 5."""
    whole = [span if isinstance(span, tuple) else (span, span) for span in spans]
    return tuple(f"Figure {i}" for first, last in whole for i in range(first, last + 1))


class Recipe(ABC):
    """One way to draw a run.

    Attributes:
        name: on the command line, and how its files begin.
        paper: figures and tables of the paper that it makes.
        sweeps: for a recipe of sweeps: the swept setting, or ``ANY``.
        page: where the page of a report has its figures, which are then files of every report: in a section of their
            own (``section``), for readers without scripts alone (``fallback``), or nowhere (``file``). A recipe
            without a place is drawn when somebody asks for it.
        heading: of the section.
    """

    name: ClassVar[str]
    paper: ClassVar[tuple[str, ...]] = ()
    sweeps: ClassVar[str] = ""
    page: ClassVar[Place] = ""
    heading: ClassVar[str] = ""

    def prepare(self, data: ReportData) -> ReportData:
        """Return the data with what this recipe needs beside the tables of the run."""
        return data

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return the figures of a run: by default one for each level and definition.

        Raises:
            UserError: when the run has nothing to draw: says what is missing.
        """
        return [FigureKey(self.name, level, definition) for level in data.levels for definition in data.definitions]

    def keys_of_page(self, data: ReportData) -> list[FigureKey]:
        """Return the figures of the report of a run: by default all of ``keys``."""
        try:
            return self.keys(data)
        except UserError:  # a report has what there is
            return []

    @abstractmethod
    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return one figure of a run."""

    def caption(self, key: FigureKey) -> str:
        """Return what a figure on the page shows, for readers who do not see it; its level is added."""
        return ", ".join(filter(None, (self.heading or self.name, key.what)))

    def draw_sweep(self, table: pd.DataFrame, runs: Mapping[str, ReportData], name: str) -> dict[FigureKey, Figure]:
        """Return all figures of a sweep.

        Args:
            table: of the sweep: its correlations, with the swept value in a column.
            runs: value of the setting -> the tables of its run.
            name: the swept setting.

        Raises:
            UserError: when the sweep has nothing to draw.
        """
        raise NotImplementedError(f"{self.name} says that it is of sweeps, and draws none")
