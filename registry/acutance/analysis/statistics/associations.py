"""Other coefficients beside tau-a, tau within groups and beyond the controls, and how reliable a measure is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from acutance.analysis.association import METHODS, association
from acutance.analysis.decompose import stratified_tau
from acutance.analysis.labels import target_label
from acutance.analysis.machinery.columns import Array, joined
from acutance.analysis.partial import DRAWS, partial
from acutance.analysis.reliability import reliability
from acutance.analysis.statistics.base import Section, Statistic
from acutance.analysis.statistics.study import Level
from acutance.analysis.text import ends, number, p_value

COLUMNS = [
    "definition", "target", "n", "ties", *METHODS, "jackknife_low", "jackknife_high",
    "stratified", "stratified_low", "stratified_high", "stratified_p",
    "partial_kendall", "partial_kendall_p", "partial_spearman", "partial_spearman_p", "partial_n", "controls",
    "icc", "icc_mean", "replicates", "replicate_lowest", "replicate_highest", "note",
]  # fmt: skip


class Associations(Statistic):
    """A definition and a target: other coefficients, tau inside groups and beyond the controls, reliability."""

    name = "associations"
    after = "relations"
    rounds = 1

    def of_level(self, level: Level) -> pd.DataFrame:
        """Return one row for each definition and target."""
        study, values = level.study, level.values
        return associations(
            level.targets, {str(n): values[n].to_numpy(np.float64) for n in values}, level.groups, level.controls,
            level.replicates, measured=level.measured_controls, resamples=study.resamples, seed=study.seed,
        )  # fmt: skip

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return what is left of each correlation, in the columns that the run has."""
        rows = table.to_dict("records")
        parts = {
            "within groups": [_with_ends(row) for row in rows],
            "beyond controls": [_with_p(row) for row in rows],
            "intraclass correlation": [
                number(row["icc_mean"]) if math.isfinite(row["icc_mean"]) else "" for row in rows
            ],
            "of single replicates": [ends(row["replicate_lowest"], row["replicate_highest"]) for row in rows],
        }
        filled = {name: texts for name, texts in parts.items() if any(texts)}
        if not filled:
            return None
        controls = _controls(table).replace("_", " ")
        return Section(
            "What is left beyond the hyperparameters" + (f" ({controls})" if controls else ""),
            "τ over pairs of models of one subgroup; Kendall’s partial τ with the controls held fixed, which is small "
            "where the measure only says what they say; with replicates, how well the measure agrees with itself.",
            ["definition", "target", "τ", *filled],
            [
                [
                    str(row["definition"]), target_label(str(row["target"])).replace("_", " "), number(row["tau_a"]),
                    *(texts[i] or "\u2013" for texts in filled.values()),
                ]
                for i, row in enumerate(rows)
            ],
            words=["definition", "target"],
            label="Correlations beyond the controls",
            folded=True,
        )  # fmt: skip

    def methods(self, table: pd.DataFrame) -> list[str]:
        """Say what is held fixed."""
        controls = _controls(table).replace("_", " ")
        return [f"Partial correlations hold {controls} fixed."] if controls else []


def _controls(table: pd.DataFrame) -> str:
    return next((str(c) for c in table.get("controls", []) if isinstance(c, str) and c), "")


def _with_ends(row: dict[str, Any]) -> str:
    tau = number(row["stratified"]) if math.isfinite(row["stratified"]) else ""
    return " ".join(filter(None, (tau, ends(row["stratified_low"], row["stratified_high"]))))


def _with_p(row: dict[str, Any]) -> str:
    value = row["partial_kendall"]
    return f"{number(value)} ({p_value(row['partial_kendall_p'], 'p')})" if math.isfinite(value) else ""


def associations(
    targets: Mapping[str, Array],
    values: Mapping[str, Array],
    groups: NDArray[np.str_] | None = None,
    controls: pd.DataFrame | None = None,
    replicates: Mapping[str, Array | None] | None = None,
    *,
    measured: Collection[str] = (),
    resamples: int = 1999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row for each definition and target.

    The five coefficients of ``association``, the jackknife's interval of tau-a; tau inside groups (``stratified_tau``);
    partial Kendall and Spearman beyond the controls (``partial``), on the ``partial_n`` models that have all of them;
    with replicates the intraclass correlation and the range of tau over single replicates (``reliability``).

    Args:
        targets: name -> values, (M,).
        values: definition -> values, (M,).
        groups: labels of the strata, (M,).
        controls: one column a control, the same models.
        replicates: definition -> values, (M, R), of those that have some.
        measured: controls that are measured themselves (see ``partial``).
        resamples: for intervals, and permutations.
        seed: names them.
    """
    # What is to be predicted is not held fixed.
    controls_of = {
        target: controls.drop(columns=[target, target.removeprefix("attr:")], errors="ignore")
        for target in targets
        if controls is not None
    }
    rows = [
        _row(
            name, target, t, s, groups, controls_of.get(target), measured, (replicates or {}).get(name), resamples, seed
        )
        for name, s in values.items()
        for target, t in targets.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(
    name: str, target: str, t: Array, s: Array, groups: NDArray[np.str_] | None, controls: pd.DataFrame | None,
    measured: Collection[str], noise: Array | None, resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    first = association(t, s, "tau_a", interval="jackknife", resamples=resamples, permutations=0, seed=seed)
    plain = {m: first if m == "tau_a" else association(t, s, m, resamples=0, permutations=0) for m in METHODS}
    row: dict[str, Any] = {"definition": name, "target": target, "n": first.n, "ties": first.ties, "note": first.note}
    row |= {method: coefficient.value for method, coefficient in plain.items()}
    row |= {"jackknife_low": first.low, "jackknife_high": first.high}
    settings: dict[str, Any] = {"permutations": resamples, "seed": seed}
    if groups is not None:
        within = stratified_tau(t, s, groups, resamples=resamples, **settings)
        row |= {
            "stratified": within.tau, "stratified_low": within.low, "stratified_high": within.high,
            "stratified_p": within.p,
        }  # fmt: skip
    if controls is not None and controls.shape[1]:
        # The p is that of both.
        kendall = partial(t, s, controls, "kendall", measured=measured, draws=min(resamples, DRAWS), seed=seed)
        spearman = partial(t, s, controls, "spearman", draws=0)
        row |= {
            "partial_kendall": kendall.value, "partial_kendall_p": kendall.p, "partial_spearman": spearman.value,
            "partial_spearman_p": kendall.p, "partial_n": kendall.n, "controls": ", ".join(kendall.controls),
            "note": joined(first.note, kendall.note and f"partial: {kendall.note}"),
        }  # fmt: skip
    if noise is not None:
        agreement = reliability(t, noise)
        row |= {
            "icc": agreement.icc, "icc_mean": agreement.icc_mean, "replicates": agreement.replicates,
            "replicate_lowest": agreement.lowest, "replicate_highest": agreement.highest,
            "note": joined(row["note"], agreement.note and f"replicates: {agreement.note}"),
        }  # fmt: skip
    return row
