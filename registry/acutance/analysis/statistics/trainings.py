"""Checkpoints of trainings: tau along each of them, and across trainings at the same loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.along_training import along, at_loss, common_levels
from acutance.analysis.kendall import kendall_tau
from acutance.analysis.labels import target_label
from acutance.analysis.machinery.columns import Array
from acutance.analysis.statistics.base import Section, Statistic
from acutance.analysis.statistics.study import StudyTables
from acutance.analysis.text import ends, number, p_value

LEAST = 5  # checkpoints of a training, or trainings, from which tau is taken
RUN, STEP, LOSSES = "attr.run", "attr.step", ("target.train_loss", "attr.loss", "attr.train_loss")


class Trainings(Statistic):
    """Tau along each training, and across trainings where their loss is the same."""

    name = "trainings"
    after = "correlations"
    explanation = (
        "Checkpoints of one training are no independent models: two numbers that merely drift agree in most pairs. The "
        "p below shifts one column against the other along the steps, and τ of changes compares the changes from "
        "checkpoint to checkpoint, in which a common trend counts nothing. *At the same loss* compares trainings with "
        "each other where the loss of each first falls to a level that all of them pass."
    )

    def compute(self, study: StudyTables) -> pd.DataFrame:
        """Return one row for each training or level of loss, definition and target."""
        rows = [*_along(study), *_matched(study)]
        columns = ["kind", "where", "definition", "target", "n", "tau", "low", "high", "p", "changes"]
        return pd.DataFrame(rows, columns=columns)

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return all of it in a few columns."""
        if not len(table):
            return None
        rows = [
            [
                str(row["where"]), str(row["definition"]), target_label(str(row["target"])).replace("_", " "),
                str(row["n"]), f"{number(row['tau'])} {ends(row['low'], row['high'])}".strip(), p_value(row["p"], "p"),
                number(row["changes"]) if np.isfinite(row["changes"]) else "\u2013",
            ]
            for row in table.to_dict("records")
        ]  # fmt: skip
        words = ["where", "definition", "target"]
        columns = ["where", "definition", "target", "n", "τ", "p", "τ of changes"]
        return Section("Along trainings, and at the same loss", self.explanation, columns, rows, words, folded=True)

    def methods(self, table: pd.DataFrame) -> list[str]:
        """Say how p is taken."""
        kinds = set(table["kind"]) if len(table) else set()
        along_them = "Along a training p is that of all circular shifts of one column against the other."
        matched = (
            "At the same loss trainings are compared where the loss first falls to a level that all of them pass; "
            "values between checkpoints are interpolated linearly in the logarithm of the loss."
        )
        return [along_them] * ("along" in kinds) + [matched] * ("matched" in kinds)


def _runs(study: StudyTables) -> dict[str, pd.DataFrame]:
    """Return the models of each training in the order of its steps, by its name; a step counts once."""
    models = study.admitted
    if RUN not in models or STEP not in models:
        return {}
    steps = pd.to_numeric(models[STEP], errors="coerce")
    ordered = models.assign(place=np.arange(len(models)), step=steps)[steps.notna() & models[RUN].notna()]
    ordered = ordered.sort_values("step", kind="stable").drop_duplicates([RUN, "step"])
    return {str(run): rows for run, rows in ordered.groupby(RUN, sort=True)}


def _along(study: StudyTables) -> Iterable[dict[str, Any]]:
    for run, rows in _runs(study).items():
        places = rows["place"].to_numpy(int)
        for label, values in zip(study.labels, study.values, strict=True):
            for target, numbers in study.target_values.items():
                t, s = _finite(numbers[places], values[places])
                if len(t) >= LEAST:
                    found = along(t, s)
                    yield {
                        "kind": "along", "where": f"run {run}", "definition": label, "target": target, "n": found.n,
                        "tau": found.tau, "low": np.nan, "high": np.nan, "p": found.p, "changes": found.changes,
                    }  # fmt: skip


def _matched(study: StudyTables) -> Iterable[dict[str, Any]]:
    runs, columns = _runs(study), study.admitted.columns
    column = next((name for name in LOSSES if name in columns), None)
    if column is None or len(runs) < LEAST:
        return
    losses: dict[str, tuple[Array, Any]] = {}
    for run, rows in runs.items():
        loss = pd.to_numeric(rows[column], errors="coerce").to_numpy(np.float64)
        keep = np.isfinite(loss) & (loss > 0)
        if keep.sum() > 1:
            losses[run] = loss[keep], rows["place"].to_numpy(int)[keep]
    if len(losses) < LEAST:
        return
    for level in common_levels([loss for loss, _ in losses.values()]):
        for label, values in zip(study.labels, study.values, strict=True):
            for target, numbers in study.target_values.items():
                if f"target.{target}" == column:
                    continue  # it is the same in all of them
                found = [_at(loss, places, numbers, values, level) for loss, places in losses.values()]
                t, s = _finite(np.array([pair["t"] for pair in found]), np.array([pair["s"] for pair in found]))
                if len(t) >= LEAST:
                    result = kendall_tau(t, s, resamples=study.resamples, permutations=study.resamples, seed=study.seed)
                    yield {
                        "kind": "matched", "where": f"loss {level:.3g}", "definition": label, "target": target,
                        "n": len(t), "tau": result.tau, "low": result.low, "high": result.high, "p": result.p,
                        "changes": np.nan,
                    }  # fmt: skip


def _at(loss: Array, places: Any, target: Array, values: Array, level: float) -> Mapping[str, float]:
    return at_loss(loss, {"t": target[places], "s": values[places]}, float(level))


def _finite(t: Array, s: Array) -> tuple[Array, Array]:
    keep = np.isfinite(t) & np.isfinite(s)
    return t[keep], s[keep]
