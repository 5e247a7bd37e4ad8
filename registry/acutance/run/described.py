"""A run in words: one line for a prompt, HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from acutance.analysis.labels import Namer, definition_label

if TYPE_CHECKING:
    from acutance.run.harness import Run

SHOWN = 10  # rows of a run's table


def run_line(run: Run) -> str:
    """Return a run in one line: folder, models, definitions, failures."""
    admitted = int(run.models["admitted"].astype(bool).sum())
    definitions = len(_definitions(run))
    return (
        f"Run({run.directory}: {admitted} of {len(run.models)} models compared, {definitions} definitions, "
        f"{run.computed} cells computed, {run.failed} without a number)"
    )


def run_html(run: Run) -> str:
    """Return a run for a notebook: the line, and the largest correlations that count, escaped."""
    from acutance.analysis.judging import counted

    table = counted(run.correlations)
    table = table.reindex(table["tau"].abs().sort_values(ascending=False, kind="stable").index)
    name = _namer(run)
    shown = table.head(SHOWN).copy()
    labels = [name(row) for row in shown.to_dict("records")]
    columns = [c for c in ("target", "within", "n", "tau", "low", "high", "p", "p_adjusted") if c in shown]
    shown = shown[columns].round(4)
    shown.insert(0, "definition", labels)
    more = f"<p>the {len(shown)} largest of {len(table)} correlations</p>" if len(table) > SHOWN else ""
    page = escape(str(run.report), quote=True)
    link = f'<p><a href="{page}">{page}</a></p>' if run.report.exists() else ""
    return f"<div><strong>{escape(run_line(run))}</strong>{shown.to_html(index=False, escape=True)}{more}{link}</div>"


def _namer(run: Run) -> Any:
    name = Namer(run.correlations.to_dict("records"))
    return lambda row: definition_label(row, name)


def _definitions(run: Run) -> Sequence[str]:
    name = _namer(run)
    return list(dict.fromkeys(name(row) for row in run.correlations.to_dict("records")))
