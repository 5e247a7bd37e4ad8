"""How long the statistics of a table take, told before they begin; and fewer resamples where that is too long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from acutance.analysis.machinery.kernels import THREADS
from acutance.analysis.machinery.permuting import PACKED
from acutance.analysis.tables import admitted_models

# Of one core, a resample and a permutation of one model in one pair of columns; measured, with 200 to 20 000 models.
FEW_STEP, MANY_STEP = 2.2e-9, 25e-9
PAIR = 8e-3  # what a pair of columns costs beside them
FULL = 9999
RESAMPLES = 1999  # of the other statistics: enough for a verdict
LEAST = 999  # resamples of an interval that is still worth its name
AFFORDABLE = 900.0  # seconds
FEWER = "{} resamples and permutations, not {}"


@dataclass(frozen=True)
class Workload:
    """What the statistics of a table cost.

    Attributes:
        models: that are compared.
        definitions: of measures.
        pairs: correlations of all models.
        resamples: of each, and permutations.
        seconds: about how many, within a factor of two or so.
        reduced: a sentence where there are fewer resamples than usual, since these would take too long; else empty.
    """

    models: int
    definitions: int
    pairs: int
    resamples: int
    seconds: float
    reduced: str = ""

    @property
    def text(self) -> str:
        """Return the estimate as it is told."""
        size = f"{self.definitions} definitions x {self.models} models, {self.resamples} resamples"
        return f"about {self.seconds:.0f} s: {size}"


def resamples_of(config: Mapping[str, Any]) -> int | None:
    """Return from how many resamples a study asks its intervals to be; None where it leaves that open."""
    resamples: int | None = (config.get("analysis") or {}).get("resamples")
    return resamples


def reduced(notes: Iterable[Any]) -> int | None:
    """Return from how many resamples a table of correlations is, by its notes; None where it is as many as usual."""
    matches = (re.search(FEWER.format(r"(\d+)", FULL), note) for note in notes if isinstance(note, str))
    return next((int(match[1]) for match in matches if match), None)


def workload(
    models: pd.DataFrame, results: pd.DataFrame, targets: int, groups: Sequence[str], resamples: int | None = None,
    others: int = 0,
) -> Workload:  # fmt: skip
    """Return what correlations and the other statistics cost, from as many resamples as are affordable.

    Args:
        models: as for ``correlations``.
        results: as for ``correlations``.
        targets: how many there are.
        groups: attributes whose combinations are judged again, each with its part of the models.
        resamples: of a correlation, whatever they cost; by default as many as usual, or as can be afforded.
        others: intervals and p-values of each correlation that come from fewer resamples, see ``Statistic.rounds``.
    """
    n = len(admitted_models(models))
    fields = ["measure", *(c for c in results.columns if c.startswith("spec."))]
    definitions = len(results[fields].drop_duplicates()) if len(results) else 0
    pairs, rounds = definitions * targets, 2 if groups else 1

    def seconds(count: int) -> float:
        step = FEW_STEP if n <= PACKED else MANY_STEP
        return pairs * (PAIR + step * n * (rounds * count + others * min(count, RESAMPLES))) / THREADS

    if resamples is not None or seconds(FULL) <= AFFORDABLE:
        chosen = FULL if resamples is None else resamples
        return Workload(n, definitions, pairs, chosen, seconds(chosen))
    chosen = next((count for count in (4999, 1999) if seconds(count) <= AFFORDABLE), LEAST)
    hint = f"--resamples {FULL}, or analysis.resamples of a study, takes them"
    why = f"{FEWER.format(chosen, FULL)}, which take about {seconds(FULL) / 60:.0f} minutes"
    return Workload(n, definitions, pairs, chosen, seconds(chosen), f"{why} ({hint})")
