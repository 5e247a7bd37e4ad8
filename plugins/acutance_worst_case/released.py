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

from acutance.numerics.auto_pgd import Maximum, Objective, Rotation
from acutance.numerics.scalars import Scalar, at_most_one, both, choose, either, inverse, negate, scalar
from acutance.numerics.slopes import Slope

ALPHA = 0.75
TOLERANCE = 1e-5
DOUBLINGS = 64
BISECTIONS = 64


def checkpoints(steps: int) -> list[int]:
    """Return the schedule of the published code, in floating point: 20 steps give 15 where 14 is exact.

    It ends where an entry comes twice, so 5 and 10 steps lose their last checkpoints.
    """
    before, p = 0.0, 0.22
    steps_at: list[int] = []
    while p <= 1 and len(set(steps_at)) == len(steps_at):
        steps_at.append(math.ceil(p * steps))
        before, p = p, p + max(p - before - 0.03, 0.06)
    return steps_at


def search(objective: Objective, like: Tensor, c: Tensor | None, norm: str, rho: float, steps: int) -> Maximum:
    """Return the best point of the search, in coordinates delta, from a start at zero.

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
    delta = previous = torch.zeros_like(like)
    loss, note, slope = objective.gradient(delta)
    places = Rotation(delta, loss)
    best = Maximum(places.best, loss, note.clone(), loss, slope.snapshot())
    eta: Scalar = 2 * rho
    schedule = [0, *checkpoints(steps)]
    improvements: Scalar = 0.0
    eta_before, best_before = eta, loss

    for k in range(steps):
        z = _projected(_step(slope.flat(), c, norm, eta).add_(delta), c, norm, rho)
        following = places.next(delta, best.x)
        torch.mul(previous, 1 - ALPHA, out=following).add_(z, alpha=ALPHA)
        delta, previous = following, delta
        if k + 1 < steps:
            del slope  # its memory serves the next one, unless it belongs to the best point
            loss, note, slope = objective.gradient(delta)
        else:
            loss, note = objective.value(delta)
        improvements = improvements + best.update(delta, loss, note, slope)
        if k + 1 == (steps + 1) // 2:
            best.value_half = best.value
        if k in schedule[1:]:
            length = k - schedule[schedule.index(k) - 1]
            few = improvements < ALPHA * length
            idle = (eta == eta_before) & (best.value == best_before)
            cut = either(few, idle)
            eta_before, best_before = eta, best.value
            eta = choose(cut, eta / 2, eta)
            assert isinstance(best.slope, Slope)
            slope = slope.replaced(cut, best.slope)
            improvements = 0.0
    best.slope = None  # its memory is a gradient's
    return best


def _step(g: Tensor, c: Tensor | None, norm: str, eta: Scalar) -> Tensor:
    """Return eta c sign(g) in linf, eta c g / ||g|| in l2, (p,)."""
    along = g.sign().mul_(eta) if norm == "linf" else (eta * inverse(scalar(g.norm()))) * g
    return along if c is None else along.mul_(c)


def _projected(delta: Tensor, c: Tensor | None, norm: str, rho: float) -> Tensor:
    r"""Return the point of the ball nearest to delta in Euclidean distance, (p,).

    In linf by clipping, in l2 with c = 1 by shrinking. With another c by :math:`\delta / (1 + 2 \lambda c^{-2})`,
    lambda found by doubling and bisection until :math:`\| \delta \oslash c \|_2` is within 1e-5 of rho (1e-5 rho
    for rho < 1). Where comparisons are known on the host the rounds end there; on an accelerator a fixed number is
    made, and the late ones change nothing.
    """
    if c is None:
        return delta.clamp_(-rho, rho) if norm == "linf" else delta * at_most_one(rho * inverse(scalar(delta.norm())))
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, rho * c), -rho * c)
    inverse_c = (1 / c).masked_fill_(c <= 0, 0.0)
    weight = inverse_c.square()

    def shrunk(multiplier: Scalar) -> Tensor:
        return delta / (1 + 2 * multiplier * weight)

    def length(multiplier: Scalar) -> Scalar:
        return scalar((shrunk(multiplier) * inverse_c).norm())

    outside = length(0.0) > rho
    if outside is False:
        return delta
    low: Scalar = 0.0
    high: Scalar = 1.0
    for _ in range(DOUBLINGS):
        too_long = length(high) > rho
        if too_long is False:
            break
        low, high = choose(too_long, high, low), choose(too_long, 2 * high, high)
    tolerance = TOLERANCE * min(rho, 1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        reached = length(middle)
        near = both(reached - rho <= tolerance, rho - reached <= tolerance)
        if near is True:
            break
        too_long = reached > rho
        # An answer that is near stays where it is.
        low = choose(either(near, too_long), middle, low)
        high = choose(either(near, negate(too_long)), middle, high)
    return shrunk(choose(outside, middle, 0.0))
