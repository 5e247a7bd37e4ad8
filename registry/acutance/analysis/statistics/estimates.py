"""How far off errors are that measures estimate, beside what ranking models by them comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.association import association
from acutance.analysis.labels import target_label
from acutance.analysis.machinery.columns import MIN_MODELS, Array
from acutance.analysis.machinery.intervals import bca
from acutance.analysis.machinery.resampling import bootstrap_counts
from acutance.analysis.statistics.base import Cell, Section, Statistic
from acutance.analysis.statistics.study import Level, StudyTables
from acutance.analysis.text import ends, number
from acutance.presentation import presentation

COLUMNS = (
    "definition", "target", "split", "n", "mean_absolute_error", "mean_absolute_error_low", "mean_absolute_error_high",
    "bias", "bias_low", "bias_high", "tau", "tau_low", "tau_high", "note",
)  # fmt: skip


class Estimates(Statistic):
    """A definition that estimates the error, and the error measured on the same points: how far off, and the tau."""

    name = "estimates"
    title = "How far off estimated errors are"
    explanation = (
        "Measures that estimate the error on the points that they are measured on, beside the error that a target "
        "counts there, over the models. A constant shift moves the bias and leaves τ alone. Intervals resample models."
    )
    after = "correlations"
    rounds = 1

    def of_level(self, level: Level) -> Iterator[dict[str, Any]]:
        """Yield a row for each estimating definition and the target that is the error on its split."""
        study = level.study
        for label, (row, values) in zip(study.labels, level.definitions, strict=True):
            if presentation(str(row["measure"])).estimates != "error":
                continue
            split = split_of(row, study)
            for target in (name for name in level.targets if split and name in (f"{split}_error", f"{split}.error")):
                found = compared(level.targets[target], values, resamples=study.resamples, seed=study.seed)
                yield {"definition": label, "target": target, "split": split, **found}

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return the table, errors in percentage points."""
        if not len(table):
            return None
        rows: list[list[str | Cell]] = [
            [
                str(row["definition"]), target_label(str(row["target"])).replace("_", " "),
                _points(row, "mean_absolute_error", sign=""), _points(row, "bias", sign="+"),
                Cell(number(row["tau"]), ends(row["tau_low"], row["tau_high"])),
                str(row["n"]),
            ]
            for row in table.to_dict("records")
        ]  # fmt: skip
        columns = ["definition", "target", "mean |difference|, points", "bias, points", "τ", "models"]
        return Section(self.title, self.explanation, columns, rows, words=columns[:2])


def _points(row: dict[Any, Any], name: str, sign: str) -> Cell:
    """Return a value in percentage points, with its interval."""
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(value):
        return Cell("\u2013")
    texts = [f"{v:{sign}.1f}".replace("-", "\u2212") for v in (value, low, high)]
    return Cell(texts[0], f"[{texts[1]}, {texts[2]}]" if math.isfinite(low) else "")


def split_of(row: dict[str, Any], study: StudyTables) -> str:
    """Return the split on whose points a definition is measured; empty where the table does not say."""
    results = study.results
    if "split" not in results:
        return ""
    if isinstance(points := row.get("spec.points"), str) and points:
        return points
    here = results["measure"] == row["measure"]
    if "spec.points" in results:
        here &= results["spec.points"].isna() | (results["spec.points"] == "")
    splits = results.loc[here, "split"].dropna().unique()
    return str(splits[0]) if len(splits) == 1 else ""


@dataclass(frozen=True)
class _Mean:
    """A mean over models with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array, resamples: int, seed: int) -> _Mean:
        """Return the mean, with the bias-corrected and accelerated interval of resampled models."""
        n = len(values)
        mean = float(values.mean())
        resampled = bootstrap_counts(n, resamples, seed) @ values / n
        low, high = bca(mean, resampled, (values.sum() - values) / (n - 1), 0.95, resamples)
        return cls(mean, low, high)


def compared(errors: Array, estimates: Array, *, resamples: int = 1999, seed: int = 0) -> dict[str, Any]:
    r"""Return how far estimated errors are from measured ones, over the models that have both.

    .. math:: \overline{|\hat e - e|}, \quad \overline{\hat e - e}, \quad \tau_a(e, \hat e)

    Args:
        errors: measured, (M,), shares; NaN is missing.
        estimates: (M,).
        resamples: of models, for the intervals.
        seed: names them.
    """
    there = np.isfinite(errors) & np.isfinite(estimates)
    n = int(there.sum())
    if n < MIN_MODELS:
        return {"n": n, "note": f"fewer than {MIN_MODELS} models"}
    off = estimates[there] - errors[there]
    tau = association(errors[there], estimates[there], resamples=resamples, permutations=0, seed=seed)
    found: dict[str, Any] = {"n": n}
    for name, values in (("mean_absolute_error", np.abs(off)), ("bias", off)):
        mean = _Mean.of(values, resamples, seed)
        found |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return found | {"tau": tau.value, "tau_low": tau.low, "tau_high": tau.high, "note": tau.note}
