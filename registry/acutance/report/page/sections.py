"""What the page shows of statistics; one that fails is left out, and a sentence says so."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import pandas as pd
from markupsafe import Markup

from acutance.analysis.statistics import Cell, Section, Statistic
from acutance.analysis.statistics.base import Place
from acutance.errors import as_errors, caught, in_words
from acutance.report.data import ReportData


def level_sections(data: ReportData, level: str, faults: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the sections of a level, by the part of the page that they stand behind.

    Args:
        data: what is shown of a run.
        level: of ``within``.
        faults: gets a sentence for each statistic that fails.
    """
    sections: dict[str, list[dict[str, Any]]] = {place: [] for place in get_args(Place)}
    for statistic in data.statistics:
        if "within" in _table(data, statistic):
            sections[statistic.after] += _asked(statistic, partial(_section, data, statistic, level), faults)
    return sections


def study_sections(data: ReportData, faults: list[str]) -> list[dict[str, Any]]:
    """Return the sections of statistics of the whole study, whose tables have no levels."""
    sections = []
    for statistic in data.statistics:
        if "within" not in _table(data, statistic):
            sections += _asked(statistic, partial(_section, data, statistic), faults)
    return sections


def sentences(data: ReportData, level: str, faults: list[str]) -> list[str]:
    """Return what statistics add to the answer of a level, from all of their rows."""
    return [
        sentence
        for statistic in data.statistics
        if "within" in _table(data, statistic)
        for sentence in _asked(statistic, partial(statistic.sentences, _rows(data.whole, statistic, level)), faults)
    ]


def methods_sentences(data: ReportData, faults: list[str]) -> list[str]:
    """Return what statistics add to the methods paragraph."""
    return [
        sentence
        for statistic in data.statistics
        for sentence in _asked(statistic, partial(statistic.methods, _rows(data, statistic)), faults)
    ]


def marked(text: str) -> Markup:
    """Return a text for the page: escaped, with ``code``, *stress* and the index of τ.

    >>> str(marked("τ_b < 1 in `a.csv`, *not* b"))
    'τ<sub>b</sub> &lt; 1 in <code>a.csv</code>, <em>not</em> b'
    """
    escaped = html.escape(text, quote=False)
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*([^*]+)\*", "em"), (r"(?<=τ)_(\w)", "sub")):
        escaped = re.sub(pattern, rf"<{tag}>\1</{tag}>", escaped)
    return Markup(escaped)


def _asked(statistic: Statistic, answer: Callable[[], Sequence[Any]], faults: list[str]) -> list[Any]:
    """Return what a statistic answers; nothing when it fails, which a sentence says once."""
    found: list[Any] = []
    with caught() as errors, as_errors("it"):
        found = list(answer())
    for error in errors:
        why = in_words(error)
        fault = f"What statistic '{statistic.name}' shows is left out: {why}. Its table is {statistic.name}.csv."
        if fault not in faults:
            faults.append(fault)
    return found


def _table(data: ReportData, statistic: Statistic) -> pd.DataFrame:
    return data.findings.get(statistic.name, pd.DataFrame(columns=["within"]))


def _rows(data: ReportData, statistic: Statistic, level: str | None = None) -> pd.DataFrame:
    """Return the rows of a level, or all; a statistic may do to them what it likes."""
    table = _table(data, statistic)
    return (table if level is None else table[table["within"] == level]).copy()


def _section(data: ReportData, statistic: Statistic, level: str | None = None) -> list[dict[str, Any]]:
    """Return the section of a level, or of the whole study, as texts; none for a statistic without."""
    section = statistic.section(_rows(data, statistic, level))
    if section is None:
        return []
    if not isinstance(section, Section):
        raise TypeError(f"section must return a Section or None, not {type(section).__name__}")
    left = [column in section.words for column in section.columns]
    rows = [
        [cell if isinstance(cell, Cell) else Cell(str(cell)) for _, cell in zip(left, row, strict=True)]
        for row in section.rows
    ]
    return [
        {
            "title": marked(section.title), "explanation": marked(section.explanation), "columns": section.columns,
            "label": section.label or section.title, "folded": section.folded, "left": left, "rows": rows,
        }
    ]  # fmt: skip
