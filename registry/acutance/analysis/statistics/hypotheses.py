"""The two hypotheses of the paper, judged for every definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.hypotheses import FORMS, Hypothesis, strong, weak
from acutance.analysis.labels import target_label
from acutance.analysis.statistics.base import Cell, Section, Statistic
from acutance.analysis.statistics.study import Level

THRESHOLD = 0.3  # the smallest tau that the strong hypothesis takes
CLAIMS = {
    "strong": "Flatter models generalize better, for every target",
    "weak": "Of the flattest tenth at most 10% are worse than the median",
    "weak_wide": "Of the flattest, as many as it takes but at most a third, at most 20% are worse than the median",
}


class Hypotheses(Statistic):
    """A definition and a hypothesis: the verdict and its reason; for the weak one, strict and wide, a target too."""

    name = "hypotheses"
    title = "The paper's hypotheses"
    explanation = (
        "Strong: τ above 0.3 for every target, pooled and within groups. Weak: of the flattest tenth at most 10% are "
        "worse than the median. Wide: of the flattest, as many as it takes to show it but at most a third, at most 20% "
        "are. A verdict accounts for the number of definitions tried; *too few models*: no outcome could have "
        "supported it. Reasons: hover, or `hypotheses.csv`."
    )
    after = "groups"
    rounds = 1

    def of_level(self, level: Level) -> Iterator[dict[str, Any]]:
        """Yield the verdict on the strong hypothesis, then those on the weak one for each target that counts."""
        targets, values, study = level.outcomes, level.values, level.study
        for definition in values.columns if targets else ():
            column, tried = values[definition].to_numpy(np.float64), values.shape[1]
            # The verdict rests on intervals; p-values are in other tables.
            settings: dict[str, Any] = {"resamples": study.resamples, "permutations": 0, "seed": study.seed}
            hypothesis = strong(targets, column, level.groups, threshold=THRESHOLD, comparisons=tried, **settings)
            yield _row(definition, "all targets", hypothesis)
            for target, t in targets.items():
                for form in FORMS:
                    judged = weak(t, column, level.groups, form=form, comparisons=tried, slopes=False)
                    yield _row(definition, target, judged)

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return a row for each definition: the strong verdict, then the weak one and its wide form for each target."""
        cells_of: dict[str, dict[tuple[str, str], Cell]] = {}
        asked: dict[tuple[str, str], None] = {}
        for row in table.to_dict("records"):
            column = (str(row["hypothesis"]), str(row["target"]))
            asked[column] = None
            text = f"{row['verdict']}, too few models" if _undecidable(row) else str(row["verdict"])
            cells_of.setdefault(str(row["definition"]), {})[column] = Cell(text, why=str(row["reason"]))
        if not cells_of:
            return None
        heads = ["definition", *(_head(*column) for column in asked)]
        rows: list[list[str | Cell]] = [
            [name, *(cells.get(column, Cell("", why="")) for column in asked)] for name, cells in cells_of.items()
        ]
        return Section(self.title, self.explanation, heads, rows, words=heads, label="Verdicts on the hypotheses")

    def sentences(self, table: pd.DataFrame) -> list[str]:
        """Return a sentence for each hypothesis: how many verdicts of each kind, and how many there cannot be."""
        rows = table.to_dict("records")
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


def _row(definition: str, target: str, hypothesis: Hypothesis) -> dict[str, Any]:
    return {
        "definition": definition, "hypothesis": hypothesis.name, "target": target, "verdict": hypothesis.verdict,
        "reason": hypothesis.reason, "short": hypothesis.short, "needed": hypothesis.needed,
    }  # fmt: skip


def _undecidable(row: Mapping[Any, Any]) -> bool:
    """Return whether the models are too few for any other verdict; runs of before did not say so."""
    return str(row["verdict"]) == "inconclusive" and bool(row.get("short", 0) > 0)


def _head(hypothesis: str, target: str) -> str:
    if hypothesis == "strong":
        return hypothesis
    return f"{hypothesis.replace('_', ', ')}, {target_label(target).replace('_', ' ')}"
