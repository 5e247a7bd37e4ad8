"""Where a function of a step turns positive: doubling, then bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

MOST = 64  # doublings, or halvings, before the search is given up: a factor of 10^19


@dataclass
class Crossing:
    r"""The search for a step at which ``excess`` turns from negative or zero to positive.

    From ``start`` the step is doubled until the excess is positive, or halved until it is not; bisection then narrows
    the bracket to a share ``rtol`` of the step, and the straight line between its ends gives the rest. Values that are
    not finite count as positive: the loss has left the range of numbers.

    Attributes:
        excess: of a step t > 0.
        start: the first step tried.
        rtol: width of the last bracket, relative to the step.
        steps: all steps tried, in order.
        low: the largest step of the bracket with an excess <= 0, and the excess; None where every step exceeds.
        high: the smallest one with an excess > 0; None where none does.
    """

    excess: Callable[[float], float]
    start: float
    rtol: float
    steps: list[float] = field(default_factory=list)
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None

    def find(self) -> float | None:
        """Return the step, or None where there is no bracket: ``low`` or ``high`` says which end is missing."""
        step = self.start
        while (self.low is None or self.high is None) and len(self.steps) < MOST:
            self._try(step)
            step *= 0.5 if self.low is None else 2.0
        if self.low is None or self.high is None:
            return None
        while self.high[0] > self.low[0] * (1 + self.rtol):
            middle = (self.low[0] + self.high[0]) / 2
            if not self.low[0] < middle < self.high[0]:
                break
            self._try(middle)
        return self._between(self.low, self.high)

    def _try(self, step: float) -> None:
        value = self.excess(step)
        self.steps.append(step)
        if value <= 0:
            self.low = step, value
        else:
            self.high = step, value

    @staticmethod
    def _between(low: tuple[float, float], high: tuple[float, float]) -> float:
        """Return where the line through both ends is zero; the middle where the upper end is not finite."""
        share = -low[1] / (high[1] - low[1]) if math.isfinite(high[1]) else 0.5
        return low[0] + share * (high[0] - low[0])
