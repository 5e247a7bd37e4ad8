"""The findings of a run as rows of the page: ceilings, verdicts on the hypotheses, confounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.labels import target_label
from acutance.report.data import ReportData, number


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


def _cell(row: dict[str, Any] | None) -> dict[str, str]:
    if row is None or not np.isfinite(row["tau"]):
        return {"tau": "\u2013", "interval": ""}
    interval = f"[{number(row['low'])}, {number(row['high'])}]" if np.isfinite(row["low"]) else ""
    return {"tau": number(row["tau"]), "interval": interval}


def _of(data: ReportData, table: str, level: str) -> list[dict[str, Any]]:
    rows = data.findings.get(table, pd.DataFrame())
    return rows[rows["within"] == level].to_dict("records") if len(rows) else []
