"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl
from acutance_dln.measures import DLNBetaNorm, DLNTopEigenvalue, DLNTrace


@hookimpl
def register_measures() -> list[type | str]:
    """Return the closed forms."""
    return [DLNTrace, DLNTopEigenvalue, DLNBetaNorm]


@hookimpl
def register_scalings() -> dict[str, str]:
    """Return the paper's c."""
    return {"balanced": "acutance_dln.scalings:balanced"}
