"""The page of a ranking: one self-contained file, everything from outside escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from acutance.analysis.choosing import DIGITS
from acutance.analysis.ranking import without_rounding
from acutance.analysis.text import number
from acutance.report.ranking import agreement_figure, values_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RankingData:
    """What the page shows of a ranking.

    Attributes:
        verdict: what follows, in one sentence.
        sentences: one for each measure.
        table: a row a measure and model.
        agreement: a row a pair of measures.
        costs: a row a measure and labelled set.
        choices: a row a labelled set that was left out.
        order: measures, similar ones neighbours.
        clusters: measure -> number of its cluster.
        labels: what each measure is called.
        points: number of points, by set.
        notes: what there is to know.
    """

    verdict: str
    sentences: Sequence[str]
    table: pd.DataFrame
    agreement: pd.DataFrame
    costs: pd.DataFrame
    choices: pd.DataFrame
    order: Sequence[str]
    clusters: Mapping[str, int]
    labels: Mapping[str, str]
    points: Mapping[str, int]
    notes: Sequence[str]


def ranking_page(data: RankingData) -> str:
    """Return the page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = resources.files("acutance.report.page")
    template = environment.from_string((folder / "ranking.html").read_text("utf-8"))
    several, table = len(data.labels) > 1, data.table.assign(value=without_rounding(data.table))
    return template.render(
        # The package's own file; all else is escaped by the template.
        style=(folder / "web" / "page.css").read_text("utf-8"),
        verdict=data.verdict, sentences=data.sentences, notes=data.notes, points=data.points,
        models=data.table["model"].nunique(),
        values=_picture(values_figure(data.table, data.labels)),
        agreement=_picture(agreement_figure(data.agreement, data.order, data.labels)) if several else "",
        ranks=[_rank(row, data.labels) for row in table.to_dict("records")],
        clusters=[(data.labels[name], data.clusters[name]) for name in data.order] if several else [],
        pairs=[
            {"a": data.labels[r["a"]], "b": data.labels[r["b"]], "tau": _tau(r), "n": r["n"]}
            for r in data.agreement.to_dict("records")
        ],
        costs=[_cost(row, data.labels) for row in data.costs.to_dict("records")],
        choices=[
            {"set": r["set"], "measure": r["measure"], "regret": _figure(r["regret"]), "random": _figure(r["random"])}
            for r in data.choices.to_dict("records")
        ],
    )  # fmt: skip


def _picture(figure: Figure) -> str:
    """Return a figure as an address that holds it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _rank(row: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    low, high = row["rank_low"], row["rank_high"]
    return {
        "measure": labels[row["measure"]], "model": row["model"], "value": _figure(row["value"], 5),
        "stderr": _figure(row["stderr"]), "ranks": str(low) if low == high else f"{low}–{high}", "first": low == 1,
        "note": row["note"],
    }  # fmt: skip


def _cost(row: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    plain = {name: _figure(round(row[name], DIGITS)) for name in ("error", "best", "regret", "stderr", "random", "off")}
    return {"measure": labels[row["measure"]], "set": row["set"], "chosen": row["chosen"], "tau": _tau(row), **plain}


def _tau(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["tau"]):
        return "–"
    return number(row["tau"]) + (f" [{number(row['low'])}, {number(row['high'])}]" if math.isfinite(row["low"]) else "")


def _figure(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else "–"
