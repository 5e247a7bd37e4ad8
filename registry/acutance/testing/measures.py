"""The checks of a measure."""

from __future__ import annotations

from acutance.testing.measure_conduct import conduct
from acutance.testing.measure_declarations import declarations
from acutance.testing.measure_subject import MeasureSubject
from acutance.testing.measure_values import values
from acutance.testing.processes import shared

SUBJECT = MeasureSubject
CHECKS = [*shared, *declarations, *values, *conduct]
