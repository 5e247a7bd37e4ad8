"""Which measures say the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from acutance.analysis.association import association
from acutance.analysis.machinery.columns import Array
from acutance.analysis.matrix import matrix
from acutance.analysis.statistics.base import Statistic
from acutance.analysis.statistics.study import Level

PAIRED = 400  # definitions that are compared with each other


class Pairwise(Statistic):
    """Two definitions: tau-b between them, and the cluster of the first."""

    name = "pairwise"

    def of_level(self, level: Level) -> pd.DataFrame:
        """Return one row for each pair of definitions."""
        return pairs(level.values, level.targets)

    def section(self, table: pd.DataFrame) -> None:
        """Return no section: pairs are drawn, as a figure."""


def pairs(s: pd.DataFrame, t: Mapping[str, Array]) -> pd.DataFrame:
    """Return a row for two definitions; of very many those that go most with a target, which ``note`` says."""
    count, note = s.shape[1], ""
    if count > PAIRED:
        note = f"the {PAIRED} of {count} definitions with the largest |tau| to a target"
        largest = [max((abs(_tau(values, s[name])) for values in t.values()), default=0.0) for name in s.columns]
        s = s.iloc[:, np.sort(np.argsort(-np.array(largest), kind="stable")[:PAIRED])]
    clustered = matrix(s)
    order = clustered.order
    tau, n = (table.loc[order, order].to_numpy() for table in (clustered.tau, clustered.n))
    both = pd.MultiIndex.from_product([order, order], names=["definition", "other"]).to_frame(index=False)
    clusters = [clustered.clusters[a] for a in both["definition"]]
    return both.assign(n=n.reshape(-1).astype(np.int64), tau=tau.reshape(-1), cluster=clusters, note=note)


def _tau(t: Array, s: pd.Series) -> float:
    value = association(t, s.to_numpy(np.float64), resamples=0, permutations=0).value
    return value if np.isfinite(value) else 0.0
