"""The answer in words, computed from the table by the rule that its stars follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.judging import counted, holding, holds
from acutance.analysis.labels import target_label
from acutance.analysis.statistics.verdicts import Verdicts
from acutance.analysis.text import number, p_value, typographic
from acutance.analysis.verdicts import EXPLAINED, conclusion, in_order
from acutance.report.data import ReportData


def answer(data: ReportData, level: str) -> dict[str, Any]:
    """Return what opens a level's part of the page: ``verdict``, ``lines`` of measures, ``conclusion``, ``sentences``.

    Errors, losses and gaps are counted, each once; what holds and its sign are those of the stars of the table.
    """
    everything = data.whole.named
    t = counted(everything[everything["within"] == level], data.targets)
    held = t[holding(t)]
    positive, negative = int((held["tau"] > 0).sum()), int((held["tau"] < 0).sum())
    judged, listed = _judged(data.whole, level), _judged(data, level)
    explained = len(judged) > 0 and not (set(judged.loc[judged["holding"] > 0, "verdict"]) - set(EXPLAINED))
    return {
        "level": level,
        "n": int(t["n"].max()) if len(t) else 0,
        "verdict": _verdict(positive, negative, len(t)) + (BUT if explained and len(held) else ""),
        "lines": [
            {"definition": row["definition"], **dict(zip(("head", "rest"), row["line"].split(":", 1), strict=True))}
            for row in in_order(listed.assign(line=listed["line"].map(typographic))).to_dict("records")
        ],
        "conclusion": conclusion(judged) if len(judged) else "",
        "sentences": [*_missing(data.whole), *_counts(t, positive, negative), *_largest(t), *_versions(data)],
    }


BUT = ", but groups or attributes of the models explain it"


def _judged(data: ReportData, level: str) -> pd.DataFrame:
    """Return the verdicts of a level; no rows for a run that has none."""
    table = data.findings.get(Verdicts.name, pd.DataFrame(columns=["within", "verdict", "holding", "line"]))
    return table[table["within"] == level]


def _missing(data: ReportData) -> list[str]:
    """Say why there are no verdicts, where they failed."""
    return [data.faults[Verdicts.name]] if Verdicts.name in data.faults else []


def _counts(t: pd.DataFrame, positive: int, negative: int) -> list[str]:
    if not len(t):
        return ["No correlation could be computed."]
    n, targets = int(t["n"].max()), t["target"].nunique()
    definitions = t["definition"].nunique()
    radii = ", their radii" if len(t) > definitions * targets else ""
    compared = f"{definitions} definition{'s' * (definitions != 1)}{radii}, {targets} target{'s' * (targets != 1)}"
    sentences = [f"{n} models, {len(t)} correlation{'s' * (len(t) != 1)} ({compared})."]
    held = positive + negative
    family = f"after adjustment for all {len(t)} comparisons (family-wise error 5%)"
    if not held:
        return [*sentences, f"None holds {family}."]
    signs = [
        f"{count} {sign}" for count, sign in (
            (positive, "with τ above zero (flatter generalizes better)"),
            (negative, "with τ below zero (sharper generalizes better)"),
        ) if count
    ]  # fmt: skip
    return [*sentences, f"{held} hold{'s' * (held == 1)} {family}: {', '.join(signs)}."]


def _largest(t: pd.DataFrame) -> list[str]:
    if not len(t):
        return []
    best = t.loc[t["tau"].abs().idxmax()].to_dict()
    rho = best.get("spec.rho")
    radius = f", ρ = {rho:g}" if rho is not None and np.isfinite(rho) else ""
    interval = f" [{number(best['low'])}, {number(best['high'])}]" if np.isfinite(best["low"]) else ""
    end = f"the largest of {len(t)} is large by selection" if len(t) > 1 else ""
    end = "; ".join(filter(None, (end, "" if holds(best) else "it does not hold")))
    return [
        f"Largest |τ|: {number(best['tau'])}{interval} for {best['definition']}{radius} against "
        f"{target_label(best['target']).replace('_', ' ')}, {p_value(best['p_adjusted'], 'adjusted p')}"
        f"{'; ' * bool(end)}{end}."
    ]


def _versions(data: ReportData) -> list[str]:
    """Say which targets are others once more."""
    again = [name for name in data.relations if not name.startswith(("attr:", "measure:"))]
    same = f"the same target{'s' * (len(again) > 1)} from another source, counted once and shown apart"
    return [f"{', '.join(again)}: {same}."] if again else []


def _verdict(positive: int, negative: int, total: int) -> str:
    if not total:
        return "No answer"
    if not positive and not negative:
        return "No reliable relationship found"
    if positive and negative:
        return "Mixed: the sign depends on the definition and the target"
    return f"{'Flatter' if positive else 'Sharper'} models generalize better for some definitions"
