r"""Auto-PGD (Croce & Hein 2020; Algorithm 1 of the paper) in a ball around the origin.

Maximises F over :math:`\|x\| \le \rho` with N gradient steps of size :math:`\eta`, initially
:math:`2\rho`, inertia :math:`1 - \alpha = 1/4`, and checkpoints at which the step is halved and the search
goes back to the best point, position *and* gradient, when progress was poor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from acutance.numerics.balls import Ball
from acutance.numerics.kept import Kept
from acutance.numerics.scalars import Flag, Scalar, both, choose, either, keep, negate, pick
from acutance.numerics.slopes import Slope
from acutance.numerics.units import huge
from acutance.numerics.walks import Destination

MOMENTUM = 0.25
THRESHOLD = 0.75


class Objective(Protocol):
    """The function to maximise; ``note`` is any small tensor to keep with the best point (the logits, say).

    One that evaluates at weights may have a ``destination``, a ``walks.Destination``: the next iterate is then laid out
    there while it is made, where that saves a walk over the vectors. And it may have ``passing``, which is ``gradient``
    but for where the slope lies: in memory that the next move of the point writes over, so that it is no vector more.
    """

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return (value, note, gradient); the gradient stays as it is."""
        ...

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return (value, note)."""
        ...


@dataclass
class Maximum:
    """The best point evaluated so far.

    Attributes:
        x: (p,) position.
        value: F(x).
        note: the objective's note at x, a copy.
        value_half: the best value after half of the steps: how much the second half brought.
        slope: the gradient at x; that of an earlier best point where none was computed (at the last point of a search).
        starts: best value of each start, where several were searched.
        norm: that of x in its ball, where x itself is no longer held, and empty.
    """

    x: Tensor
    value: Scalar
    note: Tensor
    value_half: Scalar
    slope: Slope | Kept | None = None
    starts: tuple[Scalar, ...] = ()
    norm: Scalar | None = None

    def update(self, x: Tensor, value: Scalar, note: Tensor, slope: Slope | None = None) -> Flag:
        """Replace the best point, with its note and gradient, by this one where its value is larger.

        Returns:
            Whether it was replaced.
        """
        better = value > self.value
        self.x = pick(better, x, self.x)
        keep(better, (self.note, note))
        if slope is not None and self.slope is not None:
            self.slope = self.slope.replaced(better, slope)
        self.value = choose(better, value, self.value)
        return better


class Rotation:
    """Memory for a search's iterates: the current one, the one before and the best one, which move without copies.

    Args:
        start: (p,) the first iterate, in its place.
        value: F there. A float (on a CPU) means that comparisons are known on the host, and the best iterate is a
            reference; a tensor means that it is a copy, written over on the device.
    """

    def __init__(self, start: Tensor, value: Scalar) -> None:
        self._places = [start]
        self.best = start.clone() if isinstance(value, Tensor) else start

    def next(self, x: Tensor, best: Tensor) -> Tensor:
        """Return a place, (p,), that holds neither x nor the best iterate; it may hold the one before x."""
        for place in self._places:
            if place is not x and place is not best:
                return place
        self._places.append(torch.empty_like(x))
        return self._places[-1]


def checkpoints(steps: int) -> list[int]:
    r"""Return the iterations at which progress is judged, in exact integer arithmetic.

    :math:`w_j = \lceil p_j N \rceil`, :math:`p_1 = 0.22`,
    :math:`p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, 0.06)` while :math:`p_j \le 1`; p is held in hundredths,
    since in floating point 0.7 * 20 rounds up to 15.
    """
    iterations, before, p = [], 0, 22
    while p <= 100:
        w = -(-p * steps // 100)
        if w not in iterations:
            iterations.append(w)
        before, p = p, p + max(p - before - 3, 6)
    return iterations


# (best value after a quarter of the steps, after half of them, value at the last point) -> whether to end there.
Stuck = Callable[[Scalar, Scalar, Scalar], bool]


def half(steps: int) -> int:
    """Return the step after which ``value_half`` is taken, and a search may end."""
    return (steps + 1) // 2


def auto_pgd(objective: Objective, start: Tensor, ball: Ball, steps: int, stuck: Stuck | None = None) -> Maximum:
    """Maximise from one start point: ``steps`` gradients and ``steps`` + 1 values, no host synchronisation.

    A search that ``stuck`` ends has made half of the steps: one gradient and one value for each of its points.

    Args:
        objective: what to maximise.
        start: (p,) point of the ball; overwritten.
        ball: feasible set.
        steps: N >= 1.
        stuck: asked once, after half of the steps, whether to end there.

    Returns:
        The best of the points evaluated.
    """
    to: Destination | None = getattr(objective, "destination", None)
    passing = getattr(objective, "passing", None) if huge(start) else None
    gradient = passing or objective.gradient
    f, note, g = gradient(start)
    places = Rotation(start, f)
    x = previous = start
    best = Maximum(places.best, f, note.clone(), f, ball.kept(g) if huge(start) else g.snapshot())
    quarter: Scalar = f
    eta: Scalar = 2 * ball.rho
    judged = set(checkpoints(steps))
    window_start, best_before = 0, f
    increases: Scalar = 0.0
    halved_before: Flag = False

    for k in range(steps):
        following = places.next(x, best.x)
        ball.advance(x, previous, g, eta, None if k == 0 else MOMENTUM, following, to)
        x, previous = following, x
        if k + 1 < steps:
            del g  # its memory serves the next one, unless it belongs to the best point
            f_next, note, g = gradient(x)
            best.update(x, f_next, note, g)
        else:
            best.slope = None  # no step follows: its memory is a gradient's
            del g
            f_next, note = objective.value(x)
            best.update(x, f_next, note)
        if k + 1 == half(steps) // 2:
            quarter = best.value
        if k + 1 == half(steps):
            best.value_half = best.value
            if stuck is not None and stuck(quarter, best.value, f_next):
                break
        risen = f_next > f
        if k in judged and k + 1 < steps:
            stalled = increases < THRESHOLD * (k - window_start)  # Condition 1
            idle = both(negate(halved_before), best.value == best_before)  # Condition 2
            restart = either(stalled, idle)
            eta = choose(restart, eta / 2, eta)
            # Position, gradient and inertia all start again from the best point.
            x, previous = pick(restart, best.x, x), pick(restart, best.x, previous)
            assert best.slope is not None
            if isinstance(best.slope, Kept):
                g = best.slope.again(restart, g, to.point if passing and to else None)
            else:
                g = g.replaced(restart, best.slope)
            f_next = choose(restart, best.value, f_next)
            window_start, best_before, halved_before = k, best.value, restart
            # The increase from k to k+1 belongs to the next window, unless that step was taken back.
            increases, risen = 0.0, both(risen, negate(restart))
        increases = increases + risen
        f = f_next
    best.slope = None
    return best
