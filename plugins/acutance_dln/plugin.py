"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl
from acutance_dln.linear import LinearScale, LinearSeparable
from acutance_dln.measures import DLNBetaNorm, DLNTopEigenvalue, DLNTrace
from acutance_dln.pools import DLN
from acutance_dln.regression import SparseRegression


@hookimpl
def register_measures() -> list[type | str]:
    """Return the closed forms."""
    return [DLNTrace, DLNTopEigenvalue, DLNBetaNorm]


@hookimpl
def register_scalings() -> dict[str, str]:
    """Return the paper's c."""
    return {"balanced": "acutance_dln.scalings:balanced"}


@hookimpl
def register_pools() -> list[type]:
    """Return the pools: trained networks, scaled classifiers."""
    return [DLN, LinearScale]


@hookimpl
def register_datasets() -> list[type]:
    """Return the data of both pools."""
    return [SparseRegression, LinearSeparable]
