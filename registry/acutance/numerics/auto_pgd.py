r"""Auto-PGD (Croce & Hein 2020; Algorithm 1 of the paper) in a ball around the origin.

Maximises F over :math:`\|x\| \le \rho` with N gradient steps of size :math:`\eta`, initially
:math:`2\rho`, inertia :math:`1 - \alpha = 1/4`, and checkpoints at which the step is halved and the search
goes back to the best point, position *and* gradient, when progress was poor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from acutance.numerics.balls import Ball
from acutance.numerics.scalars import Flag, Scalar, both, choose, either, keep, negate

MOMENTUM = 0.25
THRESHOLD = 0.75


class Objective(Protocol):
    """The function to maximise; ``note`` is any small tensor to keep with the best point (the logits, say)."""

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Tensor]:
        """Return (value, note, (p,) gradient); the gradient may be overwritten, here and by the next call."""
        ...

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return (value, note)."""
        ...


@dataclass
class Maximum:
    """The best point met.

    Attributes:
        x: (p,) position.
        value: F(x).
        note: what the objective noted there.
        value_half: the best value after half of the steps: how much the second half brought.
    """

    x: Tensor
    value: Scalar
    note: Tensor
    value_half: Scalar

    def meet(self, x: Tensor, value: Scalar, note: Tensor, *beside: tuple[Tensor, Tensor]) -> Flag:
        """Take a point that beats the best one, with what else (destination, source) is kept beside it.

        Returns:
            Whether it was taken.
        """
        better = value > self.value
        keep(better, (self.x, x), (self.note, note), *beside)
        self.value = choose(better, value, self.value)
        return better


def checkpoints(steps: int) -> list[int]:
    r"""Return the iterations at which progress is judged, in exact integer arithmetic.

    :math:`w_j = \lceil p_j N \rceil`, :math:`p_1 = 0.22`,
    :math:`p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, 0.06)` while :math:`p_j \le 1`; p is held in hundredths,
    since in floating point 0.7 * 20 rounds up to 15.
    """
    found, before, p = [], 0, 22
    while p <= 100:
        w = -(-p * steps // 100)
        if w not in found:
            found.append(w)
        before, p = p, p + max(p - before - 3, 6)
    return found


def auto_pgd(objective: Objective, start: Tensor, ball: Ball, steps: int) -> Maximum:
    """Maximise from one start point: ``steps`` gradients and ``steps`` + 1 values, no host synchronisation.

    Args:
        objective: what to maximise.
        start: (p,) point of the ball; overwritten.
        ball: feasible set.
        steps: N >= 1.

    Returns:
        The best of the N + 1 points met.
    """
    x, previous = start, torch.empty_like(start)
    f, note, g = objective.gradient(x)
    best = Maximum(x.clone(), f, note.clone(), f)
    best_g = g.clone()
    eta: Scalar = 2 * ball.rho
    judged = set(checkpoints(steps))
    window_start, best_before = 0, f
    increases: Scalar = 0.0
    halved_before: Flag = False

    for k in range(steps):
        ball.advance(x, previous, g, eta, None if k == 0 else MOMENTUM)
        x, previous = previous, x
        if k + 1 < steps:
            f_next, note, g = objective.gradient(x)
            best.meet(x, f_next, note, (best_g, g))
        else:
            f_next, note = objective.value(x)
            best.meet(x, f_next, note)
        if k + 1 == (steps + 1) // 2:
            best.value_half = best.value
        risen = f_next > f
        if k in judged and k + 1 < steps:
            stalled = increases < THRESHOLD * (k - window_start)  # Condition 1
            idle = both(negate(halved_before), best.value == best_before)  # Condition 2
            restart = either(stalled, idle)
            eta = choose(restart, eta / 2, eta)
            # Position, gradient and inertia all start again from the best point.
            keep(restart, (x, best.x), (previous, best.x), (g, best_g))
            f_next = choose(restart, best.value, f_next)
            window_start, best_before, halved_before = k, best.value, restart
            # The increase from k to k+1 belongs to the next window, unless that step was taken back.
            increases, risen = 0.0, both(risen, negate(restart))
        increases = increases + risen
        f = f_next
    return best
