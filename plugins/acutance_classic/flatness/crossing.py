"""Where a function of a step turns positive: doublings, parabolas, and never more than bisection and one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from acutance_classic.flatness.parabolas import Parabola, Point, line, parabola

MOST = 64  # steps before the search for a bracket is given up: doublings or halvings by a factor of 10^19
FARTHEST = 7  # doublings that are passed over at once, at most: as many as the linear model needs for the whole loss
AGREES = 0.5  # of the excess foreseen at a rung: how far off it may be where rungs are passed over
BESIDE = 0.45  # of the last bracket's width: how far beside the foreseen crossing, so that both sides make that bracket
FINEST = 2.0**-50  # width of a bracket, relative to the step, below which there is no number within
ROUNDED = 1e-9  # of a logarithm


@dataclass
class Crossing:
    r"""The search for a step at which ``excess`` turns from negative or zero to positive.

    From ``start`` the step climbs a ladder of doublings until the excess is positive, or falls until it is not. Where
    the parabola through what is known foresees the crossing more than four doublings away, the rungs below half of it
    are passed over, and climbed after all where the excess there is not about the foreseen one. The bracket is
    narrowed on the axis of the step's logarithm to a share ``rtol`` of the step: the next step lies just beside the
    crossing of a parabola, towards the middle, and within a distance of the middle that keeps the worst case (Oliveira
    & Takahashi 2020, ITP: doi.org/10.1145/3423597). The straight line between the ends of the last bracket gives the
    rest. Values that are not finite count as positive: the loss has left the range of numbers.

    Narrowing takes no more than one step more than bisection of that axis. Where there is one crossing, the whole
    search takes no more than one more than the whole ladder and bisection of one doubling.

    Attributes:
        excess: of a step t > 0.
        start: the first step tried.
        rtol: width of the last bracket, relative to the step.
        zero: the excess that goes with the step 0, where it is known.
        slope: of the excess at 0, where that is known too.
        points: all steps tried and the excess there, in order.
        low: the largest step below ``high`` with an excess <= 0, and the excess; None where every step exceeds.
        high: the smallest one with an excess > 0; None where none does.
    """

    excess: Callable[[float], float]
    start: float
    rtol: float
    zero: float | None = None
    slope: float | None = None
    points: list[Point] = field(default_factory=list)
    low: Point | None = None
    high: Point | None = None

    @property
    def steps(self) -> list[float]:
        """All steps tried, in order."""
        return [step for step, _ in self.points]

    def find(self) -> float | None:
        """Return the step, or None where there is no bracket: ``low`` or ``high`` says which end is missing."""
        if self._try(self.start):
            self._descend()
        else:
            self._climb()
        if self.low is None or self.high is None:
            return None
        self._narrow()
        return line(self.low, self.high)

    def _try(self, step: float) -> bool:
        """Return whether the excess is positive at a step, and move the ends of the bracket."""
        value = self.excess(step)
        self.points.append((step, value))
        risen = not value <= 0
        if risen and (self.high is None or step < self.high[0]):
            self.high = step, value
        below = [point for point in self.points if point[1] <= 0 and (self.high is None or point[0] < self.high[0])]
        self.low = max(below, default=None)
        return risen

    # -- a bracket ---------------------------------------------------------------------------------------------

    def _climb(self) -> None:
        """Go up the ladder from ``start``, where the excess is not positive, until it is."""
        rung = 0
        if self.zero is None:  # a line takes two points
            self._try(2 * self.start)
            rung = 1
        while self.high is None and len(self.points) < MOST:
            foreseen = self._foreseen()
            # A step in vain is spent where the ladder has left one: it would have tried all rungs up to here.
            spare = rung + 2 - len(self.points)
            far = math.floor(math.log2(foreseen / self.start / 2)) if foreseen and spare > 0 else rung
            if far >= rung + 2:
                self._pass_over(rung, far := min(far, rung + FARTHEST))
                rung = far
                continue
            rung += 1
            end = self.start * 2.0**rung
            beside = foreseen * math.exp(self._beside) if foreseen and spare > 0 else end
            if beside < end and self._try(beside):
                return
            self._try(end)

    def _pass_over(self, rung: int, far: int) -> None:
        """Go from one rung to a far one; to those between them too, unless the excess there is about the foreseen."""
        known, step = self._parabola(), self.start * 2.0**far
        expected = known.at(step) if known else math.nan
        if not self._try(step) and abs(self.points[-1][1] - expected) <= AGREES * abs(expected):
            return
        for k in range(rung + 1, far):
            if self._try(self.start * 2.0**k):
                return

    def _descend(self) -> None:
        """Go down from ``start``, where the excess is positive, until it is not.

        How far at once is what leaves enough steps for bisection of the bracket that this makes.
        """
        while self.low is None and self.high is not None and len(self.points) < MOST:
            foreseen, spare = self._foreseen(), self._ladder() - len(self.points)
            if foreseen and spare > 0:
                lowest = self.high[0] * 2.0 ** -(2.0 ** min(spare, 5))
                self._try(max(foreseen * math.exp(-self._beside), lowest))
            else:
                self._try(self.high[0] / 2)

    # -- and within it -------------------------------------------------------------------------------------------

    def _narrow(self) -> None:
        """Narrow the bracket to its last width."""
        assert self.low is not None and self.high is not None
        most = bisections(self._width(), self._last)
        # One more is allowed where the ladder and bisection of a doubling have it left.
        spare = self._ladder() + bisections(math.log(2), self._last) + 1 - len(self.points) - most
        most += min(max(spare, 0), 1)
        for left in range(most, 0, -1):
            if self.high[0] <= self.low[0] * (1 + self.rtol):
                return
            middle = self._middle()
            reach = max(self._last * 2.0 ** (left - 1) - self._width() / 2, 0.0)
            away = 0.0
            if foreseen := self._foreseen():
                away = math.log(foreseen / middle)
                away -= math.copysign(min(self._beside, abs(away)), away)
            step = middle * math.exp(min(max(away, -reach), reach))
            if not self.low[0] < step < self.high[0]:
                step = middle
            if not self.low[0] < step < self.high[0]:
                return
            self._try(step)

    def _foreseen(self) -> float | None:
        """Return where the parabola through the nearest points has its crossing: within the bracket, or above."""
        known = self._parabola()
        found = known.crossing() if known else None
        top = self.high[0] if self.high else math.inf
        return found if known and found and known.origin < found < top else None

    def _parabola(self) -> Parabola | None:
        """Return the parabola through the lower end, or 0, and the nearest points."""
        origin = [] if self.zero is None else [(0.0, self.zero)]
        if self.low is None and not origin:
            return None
        tangent = origin * 2 if self.slope is not None else origin
        middle = self._middle() if self.low and self.high else (self.high or self.low or origin[0])[0]
        others = [point for point in self.points if point not in (self.low, self.high)]
        others.sort(key=lambda point: abs(math.log(point[0] / middle)))
        near = [point for point in (self.high, *others) if point and math.isfinite(point[1])]
        nodes = [self.low, *near, *tangent] if self.low else [*tangent, *near]
        return parabola(nodes[:3], self.slope)

    def _middle(self) -> float:
        assert self.low is not None and self.high is not None
        return math.sqrt(self.low[0]) * math.sqrt(self.high[0])

    def _width(self) -> float:
        assert self.low is not None and self.high is not None
        return math.log(self.high[0] / self.low[0])

    @property
    def _last(self) -> float:
        """The width of the last bracket, in logarithms."""
        return max(math.log1p(self.rtol) * (1 - ROUNDED), FINEST)

    @property
    def _beside(self) -> float:
        return BESIDE * self._last

    def _ladder(self) -> int:
        """Return how many steps doublings or halvings from ``start`` take for a bracket whose upper end is ours."""
        assert self.high is not None
        up = math.log2(self.high[0] / self.start)
        if self.points[0][1] <= 0:
            return 1 + math.ceil(up - ROUNDED)
        return 2 + math.floor(-up + ROUNDED)


def narrowings(rtol: float) -> int:
    """Return about how many steps narrow a bracket of one doubling where the function is smooth."""
    return max(math.ceil(math.log2(1 + max(math.log2(1 / rtol), 0.0))), 0)


def bisections(width: float, last: float) -> int:
    """Return how many halvings make a bracket of one width one of another."""
    return max(math.ceil(math.log2(width / last) - ROUNDED), 0)
