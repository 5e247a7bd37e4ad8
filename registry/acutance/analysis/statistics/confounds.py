"""What else a measure goes with: its tau-b with every attribute of the models."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from acutance.analysis.partial import confounds
from acutance.analysis.statistics.base import Cell, Section, Statistic
from acutance.analysis.statistics.study import Level
from acutance.analysis.text import ends, number


class Confounds(Statistic):
    """A definition and an attribute that differs between the models: tau-b, its interval, p."""

    name = "confounds"
    after = "relations"
    rounds = 1

    def of_level(self, level: Level) -> pd.DataFrame:
        """Return one row for each definition and attribute."""
        study = level.study
        settings: dict[str, Any] = {"resamples": study.resamples, "permutations": study.resamples, "seed": study.seed}
        values, attributes = level.values, level.attributes
        table = confounds(values, attributes, **settings) if attributes.shape[1] else confounds(values, attributes)
        return table.rename(columns={"measure": "definition", "value": "tau"})

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return a row for each definition, a column for each attribute."""
        rows = table.to_dict("records")
        attributes = list(dict.fromkeys(str(row["attribute"]) for row in rows))
        if not attributes:
            return None
        cells_of: dict[str, dict[str, dict[str, Any]]] = {}
        for row in rows:
            cells_of.setdefault(str(row["definition"]), {})[str(row["attribute"])] = {str(k): v for k, v in row.items()}
        return Section(
            "What the measures go with",
            "Kendall’s τ_b of each definition with the attributes of the models. A measure that ranks models as the "
            "learning rate does says what the learning rate says.",
            ["definition", *(name.replace("_", " ") for name in attributes)],
            [[name, *(_cell(cells.get(attribute)) for attribute in attributes)] for name, cells in cells_of.items()],
            words=["definition"],
            label="Confounds",
        )


def _cell(row: dict[str, Any] | None) -> Cell:
    if row is None or not math.isfinite(row["tau"]):
        return Cell("\u2013")
    return Cell(number(row["tau"]), ends(row["low"], row["high"]))
