"""Which axes are logarithmic: decided once, for the figures and for the page."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

Scale = Literal["linear", "log", "percent"]
DECADES = 100  # a target that spans more is read on a logarithmic axis


def is_logarithmic(values: pd.Series) -> bool:
    """Return whether values of a measure are drawn on a logarithmic axis: at least half of the finite are positive."""
    positive = values[np.isfinite(values)] > 0
    return bool(positive.any()) and bool(positive.mean() >= 0.5)


def target_scale(target: str, values: pd.Series) -> Scale:
    """Return how a target is drawn: errors and gaps in percent, positive values over decades on a log scale."""
    share = not target.startswith("measure:") and any(word in target for word in ("error", "gap"))
    if share and bool(values.between(0, 1).all()):
        return "percent"
    return "log" if len(values) and (values > 0).all() and values.max() / values.min() >= DECADES else "linear"
