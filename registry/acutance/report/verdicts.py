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
    """Return the verdicts: ``targets`` of the weak hypothesis, and a row for each definition.

    Each row has ``definition``, ``strong`` and ``weak``, a list; a verdict is a pair of it and its reason.
    """
    rows = _of(data, "hypotheses", level)
    targets = list(dict.fromkeys(str(row["target"]) for row in rows if row["hypothesis"] == "weak"))
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for row in rows:
        place = "strong" if row["hypothesis"] == "strong" else str(row["target"])
        found.setdefault(str(row["definition"]), {})[place] = (str(row["verdict"]), str(row["reason"]))
    missing = ("", "")
    table = [
        {
            "definition": name,
            "strong": verdicts.get("strong", missing),
            "weak": [verdicts.get(target, missing) for target in targets],
        }
        for name, verdicts in found.items()
    ]
    return {"targets": [target_label(t).replace("_", " ") for t in targets], "rows": table}


def hypothesis_sentence(data: ReportData, level: str) -> str:
    """Return how many definitions the strong hypothesis holds for; empty where it was not judged."""
    verdicts = Counter(row["verdict"] for row in _of(data, "hypotheses", level) if row["hypothesis"] == "strong")
    if not verdicts:
        return ""
    parts = [f"{verdicts[v]} {v}" for v in ("supported", "refuted", "inconclusive") if verdicts[v]]
    return f"Flatter models generalize better, for every target: {', '.join(parts)}, of {verdicts.total()} definitions."


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
