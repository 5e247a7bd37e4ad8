"""What a statistic is: a table computed from those of a study, and what the page says of it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd

from acutance.analysis.statistics.study import Level, StudyTables

Place = Literal["correlations", "groups", "relations", "curves"]
ROWS = 200  # of a table, that the page shows as it is; the file has all


@dataclass(frozen=True)
class Cell:
    """What stands in one cell of a table of the page.

    Attributes:
        text: what is read.
        small: smaller text behind it: an interval, say.
        why: what is told when the pointer rests on it.
    """

    text: str
    small: str = ""
    why: str | None = None


@dataclass(frozen=True)
class Section:
    """What a statistic shows on the page: a heading, an explanation, a table. All of it is text, which is escaped.

    Attributes:
        title: heading; sections of one title that follow each other stand under one heading.
        explanation: what the numbers say and how they mislead. Words between backquotes are set as code, words between
            asterisks stressed, ``τ_b`` with its index.
        columns: headings of the columns.
        rows: a text or ``Cell`` for each column.
        words: headings of the columns whose cells are words, which stand at the left.
        label: what a screen reader calls the table; the title by default.
        folded: whether the reader has to open it.
    """

    title: str
    explanation: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: Collection[str] = ()
    label: str = ""
    folded: bool = False


class Statistic:
    """Base class of all statistics: one file holds what one computes, and how the page shows it.

    Define ``of_level`` for what is computed from models that are compared with each other, or ``compute`` for what is
    computed from the whole study. The rest has defaults, under which the page shows the table as it is.

    Attributes:
        name: of the statistic, its table and its file in a run's directory, ``NAME.csv``.
        title: heading on the page; the name by default.
        explanation: below the heading, see ``Section``; the first line of the class's docstring by default.
        after: the part of the page that its section stands behind: the table of all ``correlations``, the taus of the
            ``groups``, the ``relations``, or the ``curves`` of measures. Several behind one part stand in the order in
            which they are registered, built-ins first.
        rounds: for how many intervals or p-values of each correlation it resamples, for the estimate of the time.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    explanation: ClassVar[str] = ""
    after: ClassVar[Place] = "curves"
    rounds: ClassVar[int] = 0

    # -- what is computed ---------------------------------------------------------------------------------------

    def of_level(self, level: Level) -> pd.DataFrame | Iterable[Mapping[str, Any]]:
        """Return the rows of the table that are of one level of ``within``.

        Args:
            level: its models, their targets and values; at least ``MIN_MODELS`` models and a definition.
        """
        raise NotImplementedError(f"statistic '{self.name}' defines neither of_level(level) nor compute(study)")

    def compute(self, study: StudyTables) -> pd.DataFrame:
        """Return the table: by default the rows of every level, whose name is in the column ``within``.

        A table without that column is about the whole study, and shown below the levels.

        Args:
            study: its tables and settings.
        """
        parts = []
        for level in study.levels:
            table = _table_of(self.of_level(level))
            table.insert(0, "within", level.name)
            parts.append(table)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["within"])

    def steps(self, study: StudyTables) -> int:
        """Return how often ``study.done`` is called, of a statistic that takes long enough for a bar; else 0."""
        return 0

    # -- what the page shows ------------------------------------------------------------------------------------

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return the section of the page: by default the table as it is; None for none.

        Args:
            table: the rows of one level, or of the whole study; of very many definitions those that are shown.
        """
        if not len(table):
            return None
        shown = table.drop(columns="within", errors="ignore")
        words = [str(name) for name in shown if not pd.api.types.is_numeric_dtype(shown[name])]
        rows = [[plain(value) for value in row] for row in shown.head(ROWS).itertuples(index=False, name=None)]
        more = f" The first {ROWS} of {len(shown)} rows; all are in `{self.name}.csv`." if len(shown) > ROWS else ""
        return Section(self.heading(), self.about() + more, [str(name) for name in shown], rows, words)

    def sentences(self, table: pd.DataFrame) -> list[str]:
        """Return sentences for the answer at the top of a level's part of the page; none by default.

        Args:
            table: all rows of the level.
        """
        return []

    def methods(self, table: pd.DataFrame) -> list[str]:
        """Return sentences for the methods paragraph of the page; none by default.

        Args:
            table: all of it.
        """
        return []

    def heading(self) -> str:
        """Return the title."""
        return self.title or self.name.replace("_", " ").capitalize()

    def about(self) -> str:
        """Return the explanation."""
        return self.explanation or (inspect.cleandoc(type(self).__doc__ or "").splitlines() or [""])[0]


def _table_of(rows: object) -> pd.DataFrame:
    """Return what ``of_level`` gave as a table that may be changed.

    Raises:
        TypeError: for anything but a table or rows.
        ValueError: for a column ``within``, which every table gets.
    """
    if isinstance(rows, pd.DataFrame):
        table = rows.copy()
    else:
        listed = list(rows) if isinstance(rows, Iterable) and not isinstance(rows, str | Mapping) else [rows]
        if wrong := [row for row in listed if pd.api.types.is_scalar(row) or row is rows]:
            raise TypeError(f"of_level must return a DataFrame or rows, {{column: value}} each, not {wrong[0]!r}")
        table = pd.DataFrame(listed)
    if "within" in table:
        raise ValueError("of_level returns a column 'within', which is added: it has the level's name")
    return table


def plain(value: Any) -> str:
    """Return a value of a table as text: numbers in six digits, a dash for what is missing."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "\u2013"
    return f"{value:g}" if isinstance(value, float) else str(value)
