r"""The worst-case search of the study's published code, step by step, to reproduce published values.

It differs from Algorithm 1 of the paper in ways that change values, all kept: the inertia term is
:math:`\delta_{k-1}` alone and acts from the first step; in l2 the step goes along :math:`c \odot g` and the
projection onto the ellipsoid is Euclidean in :math:`\delta`; progress counts new records, in a first window one
step longer than its threshold assumes; the schedule is rounded in floating point; and cutting the step takes
the gradient at the best point once, but not the position. Only one thing is mended: coordinates with c = 0
stay at zero, where the published code gets 0/0 and stops projecting.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from acutance.numerics.auto_pgd import Maximum, Objective
from acutance.numerics.scalars import Scalar, choose, either, inverse, keep, scalar

ALPHA = 0.75
TOLERANCE = 1e-5
BISECTIONS = 100


def checkpoints(steps: int) -> list[int]:
    """Return the schedule of the published code, in floating point: 20 steps give 15 where 14 is exact."""
    before, p, found = 0.0, 0.22, []
    while p <= 1:
        found.append(math.ceil(p * steps))
        before, p = p, p + max(p - before - 0.03, 0.06)
    return found


def search(objective: Objective, like: Tensor, c: Tensor | None, norm: str, rho: float, steps: int) -> Maximum:
    """Return the best point met, in coordinates delta, from a start at zero.

    The published code evaluates the loss at every new iterate and once more for its gradient; here one pass
    gives both, so N steps cost N gradients and N + 1 values, with the same numbers.

    Args:
        objective: L_S(w + delta) as a function of delta.
        like: (p,) any vector of the right shape.
        c: (p,) scaling, or None for ones.
        norm: ``l2`` or ``linf``.
        rho: radius.
        steps: N >= 1.
    """
    units = torch.ones_like(like) if c is None else c
    delta, previous = torch.zeros_like(like), torch.zeros_like(like)
    loss, note, g = objective.gradient(delta)
    best, best_g = Maximum(delta.clone(), loss, note.clone(), loss), g.clone()
    eta: Scalar = 2 * rho
    schedule = [0, *checkpoints(steps)]
    improvements: Scalar = 0.0
    eta_before, best_before = eta, loss

    for k in range(steps):
        # z over g, then the next iterate over the one before the last.
        z = _projected(delta + _step(g, units, norm, eta), units, norm, rho)
        previous.mul_(1 - ALPHA).add_(z, alpha=ALPHA)
        delta, previous = previous, delta
        if k + 1 < steps:
            loss, note, g = objective.gradient(delta)
        else:
            loss, note = objective.value(delta)
        improvements = improvements + best.meet(delta, loss, note, (best_g, g))
        if k + 1 == (steps + 1) // 2:
            best.value_half = best.value
        if k in schedule[1:]:
            length = k - schedule[schedule.index(k) - 1]
            few = improvements < ALPHA * length
            idle = (eta == eta_before) & (best.value == best_before)
            cut = either(few, idle)
            eta_before, best_before = eta, best.value
            eta = choose(cut, eta / 2, eta)
            keep(cut, (g, best_g))
            improvements = 0.0
    return best


def _step(g: Tensor, c: Tensor, norm: str, eta: Scalar) -> Tensor:
    """Return eta c sign(g) in linf, eta c g / ||g|| in l2, (p,)."""
    if norm == "linf":
        return eta * c * g.sign()
    return (eta * inverse(scalar(g.norm()))) * g * c


def _projected(delta: Tensor, c: Tensor, norm: str, rho: float) -> Tensor:
    r"""Return the point of the ball nearest to delta in Euclidean distance, (p,).

    In linf by clipping; in l2 :math:`\delta / (1 + 2 \lambda c^{-2})`, lambda found by bisection until
    :math:`\| \delta \oslash c \|_2` is within 1e-5 of rho (1e-5 rho for rho < 1).
    """
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, rho * c), -rho * c)
    inverse_c = torch.where(c > 0, 1 / c, 0.0)
    length = float((delta * inverse_c).norm())
    if not length > rho:
        return delta
    weight = inverse_c.square()

    def shrunk(multiplier: float) -> Tensor:
        return delta / (1 + 2 * multiplier * weight)

    low, high = 0.0, 1.0
    while float((shrunk(high) * inverse_c).norm()) > rho:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        point = shrunk(middle)
        length = float((point * inverse_c).norm())
        if abs(length - rho) <= TOLERANCE * min(rho, 1.0):
            break
        low, high = (middle, high) if length > rho else (low, middle)
    return point
