"""What a perfect measure is expected to show: test sets are finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.labels import target_label
from acutance.analysis.statistics.base import Statistic
from acutance.analysis.statistics.study import Level
from acutance.analysis.text import ends, number


class Ceilings(Statistic):
    """A target that is an error counted on a test set: the tau that a perfect measure is expected to show."""

    name = "ceilings"

    def of_level(self, level: Level) -> Iterator[dict[str, Any]]:
        """Yield a row for each target whose number of test points is known."""
        points = level.study.points
        for target, values in level.targets.items():
            if target in points:
                ceiling = noise_ceiling(values, points[target], seed=level.study.seed)
                yield {"target": target, "points": points[target], **vars(ceiling)}

    def section(self, table: pd.DataFrame) -> None:
        """Return no section: the ceiling stands below the heat map and beside each tau."""

    def sentences(self, table: pd.DataFrame) -> list[str]:
        """Return a sentence for each target that has one."""
        return [
            f"A perfect measure would be expected to show τ = {number(row['tau'])} {ends(row['low'], row['high'])} "
            f"with {target_label(row['target']).replace('_', ' ')}, counted on {int(row['points'])} points."
            for row in table.to_dict("records")
            if np.isfinite(row["tau"])
        ]
