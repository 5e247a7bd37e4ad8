"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the measure."""
    return {
        "average_case": "acutance_average_case.measure:AverageCase",
    }
