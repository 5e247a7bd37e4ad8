"""How long the statistics of a table take, told before they begin."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from acutance.analysis.findings import RESAMPLES
from acutance.analysis.kernels import THREADS
from acutance.analysis.tables import admitted_models

# Of one core, a resample and a permutation of one model in one pair of columns; measured, with 200 to 20 000 models.
STEP = 35e-9
OTHERS = 3  # tables whose intervals and p-values come from fewer resamples


def expected_seconds(
    models: pd.DataFrame, results: pd.DataFrame, targets: int, groups: Sequence[str], resamples: int = 9999
) -> float:
    """Return about how many seconds correlations and findings take, within a factor of two or so.

    Args:
        models: as for ``correlations``.
        results: as for ``correlations``.
        targets: how many there are.
        groups: attributes whose combinations are judged again, each with its part of the models.
        resamples: of a correlation.
    """
    if not len(results):
        return 0.0
    fields = ["measure", *(c for c in results.columns if c.startswith("spec."))]
    definitions = len(results[fields].drop_duplicates())
    rounds = 2 if groups else 1
    steps = len(admitted_models(models)) * definitions * targets * (rounds * resamples + OTHERS * RESAMPLES)
    return STEP * steps / THREADS
