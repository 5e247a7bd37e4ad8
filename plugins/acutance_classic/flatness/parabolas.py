"""Parabolas through points of a function, and where they turn positive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]  # a step, and the function there


@dataclass(frozen=True)
class Parabola:
    r"""The function :math:`a + b\,u + k\,u^2` of :math:`u = t - o`.

    Attributes:
        origin: o.
        level: a.
        slope: b.
        bend: k.
    """

    origin: float
    level: float
    slope: float
    bend: float

    def at(self, t: float) -> float:
        """Return the value at t."""
        u = t - self.origin
        return self.level + u * (self.slope + u * self.bend)

    def crossing(self) -> float | None:
        """Return the first t above the origin, where it is not positive, at which it is zero; None without one."""
        square = self.slope * self.slope - 4 * self.level * self.bend
        if not 0 <= square < math.inf:
            return None
        root = math.sqrt(square)
        if self.slope > 0:
            return self.origin - 2 * self.level / (self.slope + root)
        return self.origin + (root - self.slope) / (2 * self.bend) if self.bend > 0 else None


def parabola(nodes: Sequence[Point], tangent: float | None = None) -> Parabola:
    """Return the one through up to three points, from the first of them; a line through two.

    Args:
        nodes: the points. Two that stand side by side and are the same are a tangent.
        tangent: its slope.
    """

    def slope(a: Point, b: Point) -> float:
        if a[0] != b[0]:
            return (b[1] - a[1]) / (b[0] - a[0])
        return math.nan if tangent is None else tangent

    (x, level), *others = nodes
    if not others:
        return Parabola(x, level, 0.0, 0.0)
    first = slope(nodes[0], nodes[1])
    if len(nodes) == 2:
        return Parabola(x, level, first, 0.0)
    wide = nodes[2][0] - x
    bend = (slope(nodes[1], nodes[2]) - first) / wide if wide else math.nan
    return Parabola(x, level, first - bend * (nodes[1][0] - x), bend)


def line(low: Point, high: Point) -> float:
    """Return where the line through both ends is zero; the middle where the upper end is not finite."""
    share = -low[1] / (high[1] - low[1]) if math.isfinite(high[1]) else 0.5
    return low[0] + share * (high[0] - low[0])
