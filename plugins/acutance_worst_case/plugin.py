"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the measure."""
    return {
        "worst_case": "acutance_worst_case.measure:WorstCase",
    }
