"""The checks of a measure."""

from __future__ import annotations

from typing import Any

from acutance.plugins import Item
from acutance.testing.core import Check
from acutance.testing.measure_conduct import conduct
from acutance.testing.measure_declarations import declarations
from acutance.testing.measure_subject import MeasureSubject
from acutance.testing.measure_values import values
from acutance.testing.pool_measures import ComparingSubject, comparisons, elsewhere
from acutance.testing.processes import shared

CHECKS = [*shared, *declarations, *values, *conduct]


def subject_of(item: Item, *arguments: Any, **named: Any) -> MeasureSubject:
    """Return a measure as it is tried: on surfaces, or on groups of models where it compares these."""
    return (ComparingSubject if item.target.traits.level == "pool" else MeasureSubject)(item, *arguments, **named)


SUBJECT = subject_of


def checks_of(item: Item) -> list[Check]:
    """Return the checks of a measure; those of a surface are skipped where it compares models."""
    if item.target.traits.level != "pool":
        return CHECKS
    own = {check.name: check for check in comparisons}
    apart = {check.name for check in (*shared, *declarations)}
    adapted = [own.pop(c.name, None) or (c if c.name in apart else elsewhere(c)) for c in CHECKS]
    return [*adapted, *own.values()]
