"""The findings of a run as rows of the page: ceilings, verdicts on the hypotheses, confounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.labels import target_label
from acutance.report.data import ReportData, number, p_value


def ceiling_sentences(data: ReportData, level: str) -> list[str]:
    """Return what a perfect measure is expected to show, a sentence for each target that is an error."""
    return [
        f"A perfect measure would be expected to show τ = {number(row['tau'])} [{number(row['low'])}, "
        f"{number(row['high'])}] with {target_label(row['target']).replace('_', ' ')}, counted on "
        f"{int(row['points'])} points."
        for row in _of(data, "ceilings", level)
        if np.isfinite(row["tau"])
    ]


def hypothesis_rows(data: ReportData, level: str) -> dict[str, Any]:
    """Return the verdicts: ``heads`` of the columns, and a row for each definition.

    Each row has ``definition`` and ``verdicts``, a list of pairs of a verdict and its reason; the strong one, then the
    weak one and its wide form for each target.
    """
    found: dict[str, dict[tuple[str, str], tuple[str, str]]] = {}
    columns: dict[tuple[str, str], None] = {}
    for row in _of(data, "hypotheses", level):
        column = (str(row["hypothesis"]), str(row["target"]))
        columns[column] = None
        text = f"{row['verdict']}, too few models" if _undecidable(row) else str(row["verdict"])
        found.setdefault(str(row["definition"]), {})[column] = (text, str(row["reason"]))
    table = [
        {"definition": name, "verdicts": [verdicts.get(column, ("", "")) for column in columns]}
        for name, verdicts in found.items()
    ]
    return {"heads": [_head(*column) for column in columns], "rows": table}


CLAIMS = {
    "strong": "Flatter models generalize better, for every target",
    "weak": "Of the flattest tenth at most 10% are worse than the median",
    "weak_wide": "Of the flattest, as many as it takes but at most a third, at most 20% are worse than the median",
}


def hypothesis_sentences(data: ReportData, level: str) -> list[str]:
    """Return a sentence for each hypothesis that was judged: how many verdicts of each kind, and how many cannot be."""
    rows = _of(data, "hypotheses", level)
    sentences = []
    for hypothesis, claim in CLAIMS.items():
        judged = [row for row in rows if row["hypothesis"] == hypothesis]
        if not judged:
            continue
        verdicts = Counter(row["verdict"] for row in judged)
        parts = [f"{verdicts[v]} {v}" for v in ("supported", "refuted", "inconclusive") if verdicts[v]]
        targets = " and targets" if len({row["target"] for row in judged}) > 1 else ""
        undecidable = [row for row in judged if _undecidable(row)]
        models = max((int(row["needed"]) for row in undecidable), default=0)
        few = f"; no outcome could show it in {len(undecidable)}, that takes {models} models in each group judged"
        sentences.append(
            f"{claim}: {', '.join(parts)}, of {len(judged)} definitions{targets}{few if undecidable else ''}."
        )
    return sentences


def _undecidable(row: dict[str, Any]) -> bool:
    """Return whether the models are too few for any other verdict; runs of before did not say so."""
    return str(row["verdict"]) == "inconclusive" and bool(row.get("short", 0) > 0)


def _head(hypothesis: str, target: str) -> str:
    if hypothesis == "strong":
        return hypothesis
    return f"{hypothesis.replace('_', ', ')}, {target_label(target).replace('_', ' ')}"


def confound_rows(data: ReportData, level: str) -> dict[str, Any]:
    """Return tau-b of each definition with each attribute: ``attributes`` and a row for each definition."""
    rows = _of(data, "confounds", level)
    attributes = list(dict.fromkeys(str(row["attribute"]) for row in rows))
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(str(row["definition"]), {})[str(row["attribute"])] = row
    table = [
        {"definition": name, "cells": [_cell(cells.get(attribute)) for attribute in attributes]}
        for name, cells in found.items()
    ]
    return {"attributes": [a.replace("_", " ") for a in attributes], "rows": table}


def beyond_rows(data: ReportData, level: str) -> dict[str, Any]:
    """Return what is left of each correlation within groups and beyond the controls, and how reliable measures are.

    ``controls`` names what is held fixed; ``parts`` the columns that the run has; each row has ``definition``,
    ``target`` and a text for each part.
    """
    rows = _of(data, "associations", level)
    controls = next((str(row["controls"]) for row in rows if isinstance(row["controls"], str)), "")
    parts = {
        "within groups": [_with_ends(row, "stratified", "stratified_low", "stratified_high") for row in rows],
        "beyond controls": [_with_p(row, "partial_kendall") for row in rows],
        "intraclass correlation": [_plain(row, "icc_mean") for row in rows],
        "of single replicates": [_ends(row, "replicate_lowest", "replicate_highest") for row in rows],
    }
    kept = {name: texts for name, texts in parts.items() if any(texts)}
    table = [
        {
            "definition": str(row["definition"]),
            "target": target_label(str(row["target"])).replace("_", " "),
            "tau": number(row["tau_a"]),
            "cells": [texts[i] or "\u2013" for texts in kept.values()],
        }
        for i, row in enumerate(rows)
    ]
    return {"controls": controls.replace("_", " "), "parts": list(kept), "rows": table if kept else []}


def held_out_rows(data: ReportData, level: str) -> list[dict[str, str]]:
    """Return what a radius chosen on one half of the models is worth on the other: texts."""
    return [
        {
            "definition": str(row["definition"]),
            "target": target_label(str(row["target"])).replace("_", " "),
            "chosen": f"{row['chosen']:g} ({row['share']:.0%})",
            "tau": number(row["tau"]),
            "spread": _ends(row, "low", "high"),
            "best": number(row["best"]),
            "optimism": number(row["optimism"]),
        }
        for row in _of(data, "radii", level)
        if np.isfinite(row["tau"])
    ]


def _plain(row: dict[str, Any], name: str) -> str:
    return number(row[name]) if np.isfinite(row[name]) else ""


def _ends(row: dict[str, Any], low: str, high: str) -> str:
    return f"[{number(row[low])}, {number(row[high])}]" if np.isfinite(row[low]) else ""


def _with_ends(row: dict[str, Any], name: str, low: str, high: str) -> str:
    return " ".join(filter(None, (_plain(row, name), _ends(row, low, high))))


def _with_p(row: dict[str, Any], name: str) -> str:
    return f"{number(row[name])} ({p_value(row[f'{name}_p'], 'p')})" if np.isfinite(row[name]) else ""


def _cell(row: dict[str, Any] | None) -> dict[str, str]:
    if row is None or not np.isfinite(row["tau"]):
        return {"tau": "\u2013", "interval": ""}
    interval = f"[{number(row['low'])}, {number(row['high'])}]" if np.isfinite(row["low"]) else ""
    return {"tau": number(row["tau"]), "interval": interval}


def _of(data: ReportData, table: str, level: str) -> list[dict[str, Any]]:
    rows = data.findings.get(table, pd.DataFrame())
    return rows[rows["within"] == level].to_dict("records") if len(rows) else []
