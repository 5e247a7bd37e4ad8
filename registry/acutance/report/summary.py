"""The answer in words, computed from the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from acutance.report.data import ReportData, number, p_value


def answer(data: ReportData, level: str) -> dict[str, Any]:
    """Return the sentences that open a level's part of the page."""
    t = data.named[(data.named["within"] == level) & (data.named["group"] == "all") & data.named["tau"].notna()]
    n = int(t["n"].max()) if len(t) else 0
    # How measures are related with each other says nothing about generalization.
    t = t[~t["target"].str.startswith("measure:")]
    positive = int((t["low"] > 0).sum())
    negative = int((t["high"] < 0).sum())
    significant = int((t["p_adjusted"] < 0.05).sum())
    sentences = [
        f"{n} models, {len(t)} correlations ({t['definition'].nunique()} definitions, their radii, "
        f"{t['target'].nunique()} targets)." if len(t) else "No correlation could be computed."
    ]  # fmt: skip
    if len(t):
        sentences.append(
            f"The 95% interval lies above zero for {positive} (flatter generalizes better) and below zero for "
            f"{negative} (sharper generalizes better); by chance alone about {round(0.025 * len(t))} each are expected."
        )
        sentences.append(
            f"{significant} hold after adjustment for all {len(t)} comparisons (family-wise error 5%)."
            if significant
            else f"None holds after adjustment for all {len(t)} comparisons (family-wise error 5%)."
        )
        best = t.loc[t["tau"].abs().idxmax()]
        rho = best.get("spec.rho")
        radius = f", ρ = {rho:g}" if rho is not None and np.isfinite(rho) else ""
        sentences.append(
            f"Largest |τ|: {number(best['tau'])} [{number(best['low'])}, {number(best['high'])}] for "
            f"{best['definition']}{radius} against {best['target'].replace('_', ' ')}, adjusted p = "
            f"{p_value(best['p_adjusted'])}; the largest of {len(t)} is large by selection."
        )
    return {
        "level": level,
        "n": n,
        "verdict": _verdict(positive, negative, significant, len(t)),
        "sentences": sentences,
    }


def _verdict(positive: int, negative: int, significant: int, total: int) -> str:
    if not total:
        return "No answer"
    if not significant:
        return "No reliable relationship found"
    if positive and not negative:
        return "Flatter models generalize better for some definitions"
    if negative and not positive:
        return "Sharper models generalize better for some definitions"
    return "Mixed: the sign depends on the definition and the target"
