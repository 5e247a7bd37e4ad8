"""One line a measure: whether its relation holds, and what else would explain it."""

from __future__ import annotations

import pandas as pd

from acutance.analysis.statistics.base import Statistic
from acutance.analysis.statistics.study import StudyTables
from acutance.analysis.verdicts import verdicts


class Verdicts(Statistic):
    """A definition, all its radii together: the verdict, and the line that says it (``analysis.verdicts``)."""

    name = "verdicts"

    def compute(self, study: StudyTables) -> pd.DataFrame:
        """Return one row for each level and definition."""
        return verdicts(
            study.models, study.results, study.correlations, targets=study.targets, groups=study.groups,
            within=study.within, seed=study.seed, done=study.done, resamples=study.resamples,
        )  # fmt: skip

    def steps(self, study: StudyTables) -> int:
        """Return the number of definitions."""
        return len(study.definitions)

    def section(self, table: pd.DataFrame) -> None:
        """Return no section: verdicts open each level's part of the page."""
