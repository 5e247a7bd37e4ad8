"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl
from acutance_dln.linear import LinearScale, LinearSeparable
from acutance_dln.measures import DLNBetaNorm, DLNTopEigenvalue, DLNTrace


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
    """Return the pool of scaled classifiers."""
    return [LinearScale]


@hookimpl
def register_datasets() -> list[type]:
    """Return the points that a linear classifier separates."""
    return [LinearSeparable]
