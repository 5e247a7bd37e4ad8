r"""Curvature along a direction from losses alone, with a step at which the second difference stands above rounding.

.. math:: \frac{d^\top H d}{\|d \oslash c\|^2} \approx \frac{L(w + s d) - 2 L(w) + L(w - s d)}{s^2},
   \qquad \|d \oslash c\| = 1

Its error is a truncation, which grows with :math:`s^2`, and rounding of the three losses, which grows with
:math:`s^{-2}`. Rounding is known beforehand, so the step is one at which it is a small share of the difference; what
goes with :math:`s^2` is taken away by the difference of twice the step (Richardson) where rounding is not what is
left, and what is left of truncation is told by a third of four times that length: two alone may agree by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from acutance.measure import Estimate, Status
from acutance_hessian.differences import UNUSABLE
from acutance_hessian.lines import Line

if TYPE_CHECKING:
    from acutance.surface import LossSurface

RESOLVED = 16  # roundings of the loss, in units of its last digit
STANDS_OUT = 20  # by which factor a second difference exceeds rounding
NEAR, FAR = 0.7, 3.0  # of the difference that is wanted: what is taken
FIRST = 0.01  # length of the first step, as a share of the weights'
FARTHEST = 64.0  # by which factor a step changes at once
TRIES = 24
AMPLIFIED = 17 / 12  # by which factor rounding is in a curvature that is extrapolated: 4/3 of one, 1/12 of the other
DITHERED = 3  # how much more a loss is moved by weights that are rounded at random (``InPlace.against_rounding``)
FINER = {torch.float32: "dtype float64, or product: exact", torch.float64: "product: exact"}

NOTHING = (
    "the second difference of the loss along this direction does not stand above its rounding, {noise:.1e}, at any of "
    "{count} steps up to {step:.2g}: there is no curvature along it, or the loss is too coarse; try {finer}"
)
CHANGES = (
    "the curvature by second differences of the loss changes by {change:.0%} with the step, and rounding is "
    "{share:.0%} of it: the loss is no parabola where rounding leaves something to see; try {finer}"
)


@dataclass(frozen=True)
class Difference:
    """A second difference of the loss.

    Attributes:
        step: s, in the coordinates delta / c.
        size: L(w + s d) - 2 L(w) + L(w - s d).
    """

    step: float
    size: float

    @property
    def curvature(self) -> float:
        """The difference over the square of the step."""
        return self.size / self.step / self.step


@dataclass(frozen=True)
class Refined:
    """A curvature from several steps, at the smallest of them or extrapolated to none.

    Attributes:
        step: the smallest.
        curvature: the value.
        change: what truncation leaves, relative to it.
        share: what rounding makes of it.
    """

    step: float
    curvature: float
    change: float
    share: float

    @property
    def error(self) -> float:
        """Both together."""
        return self.change + self.share


@torch.no_grad()
def loss_curvature(view: LossSurface, line: Line) -> Estimate:
    """Return the curvature along a line from forward passes: two a step, two for rounding in half precision.

    Args:
        view: the loss.
        line: the direction, which is not zero.
    """
    clean = float(view.clean().loss)
    # A move of rounded weights moves a loss by three times ``rounding`` at most, and there are two of them.
    rounding = float(view.rounding()) * (DITHERED if view.is_rounded else 1)
    eps = torch.finfo(torch.float32 if view.is_rounded else view.dtype).eps
    noise = 2 * rounding + (0.0 if view.is_rounded else RESOLVED * eps * abs(clean))
    finer = FINER.get(view.dtype, "dtype float32")
    if not math.isfinite(clean + noise + line.norm):
        return Estimate(math.nan)
    wanted = max(STANDS_OUT * noise, math.sqrt(RESOLVED * eps) * (abs(clean) or 1.0))
    walk, passes = line.walk(view), 0
    farthest = torch.finfo(torch.float64 if view.dtype == torch.float64 else torch.float32).max

    def at(step: float) -> Difference:
        nonlocal passes
        if step / line.norm > farthest:  # a factor that the type of the weights does not have
            return Difference(step, math.nan)
        passes += 2
        losses = [float(walk(sign * step / line.norm, passes).value().loss) for sign in (1, -1)]
        return Difference(step, (losses[0] - clean) + (losses[1] - clean))

    found = _resolved(at, FIRST * (line.reach or 1.0), wanted, noise)
    if found.step == 0 or abs(found.size) < NEAR * wanted:
        message = NOTHING.format(noise=noise, count=TRIES, step=found.step, finer=finer)
        return Estimate.without_value(Status.NOT_CONVERGED, message)
    seen = refined(at, found, noise)
    change, share, error = seen.change, seen.share, seen.error
    extras = {"step": seen.step, "product_error": error, "clean_loss": clean, "evaluations": float(passes)}
    if rounding:
        extras["rounding"] = rounding
    if error <= UNUSABLE:
        return Estimate(seen.curvature, extras=extras)
    message = CHANGES.format(change=change, share=share, finer=finer)
    return Estimate(seen.curvature, status=Status.NOT_CONVERGED, message=message, extras=extras)


def _resolved(at: Callable[[float], Difference], step: float, wanted: float, noise: float) -> Difference:
    """Return the difference whose size is about the wanted one; the last that was tried where there is none.

    The difference is about a parabola, so the next step is known, but for what it is no parabola: a bracket is kept.
    """
    low, high, last = 0.0, math.inf, Difference(0.0, 0.0)
    for _ in range(TRIES):
        found = at(step)
        size = abs(found.size)
        if math.isfinite(size):
            last = found
        if NEAR * wanted <= size <= FAR * wanted:
            return found
        if size < wanted:
            low = max(low, step)
        else:  # NaN too: the loss has left the numbers
            high = min(high, step)
        known = math.isfinite(size) and size > noise
        factor = math.sqrt(wanted / size) if known else FARTHEST if size <= noise else 1 / FARTHEST
        step *= min(max(factor, 1 / FARTHEST), FARTHEST)
        if not low < step < high:
            step = math.sqrt(low * high) if low and high < math.inf else 2 * low or high / 2
    return last


def refined(at: Callable[[float], Difference], found: Difference, noise: float) -> Refined:
    """Return a curvature whose truncation is not far above its rounding.

    Where a shorter step is resolved still, its curvature is held against the value too: past a kink, as units of ReLU
    have, larger steps agree on another one.
    """
    far, near = at(4 * found.step), at(2 * found.step)
    while True:
        seen = min(_plain(found, near, far, noise), _extrapolated(found, near, far, noise), key=lambda one: one.error)
        # The next step has a quarter of the one, or less, and four times the other.
        if not seen.change > 4 * seen.share or not 4 * seen.share <= UNUSABLE:
            break
        following = at(found.step / 2)
        if abs(following.size) <= noise / UNUSABLE:
            break
        far, near, found = near, found, following
    for shorter in (4, 2):
        if shorter**2 * seen.share <= UNUSABLE:
            gap = _relative(abs(seen.curvature - at(found.step / shorter).curvature), seen.curvature)
            return replace(seen, change=seen.change + gap)
    return seen


def _plain(found: Difference, near: Difference, far: Difference, noise: float) -> Refined:
    """Return the curvature at a step as it is.

    Its change with the step is a quarter of that before where truncation goes with the square of the step; the larger
    of the two is taken, so that two curvatures which are the same by chance tell nothing.
    """
    value = found.curvature
    change = max(abs(near.curvature - value), abs(far.curvature - near.curvature) / 4)
    return Refined(found.step, value, _relative(change, value), _relative(noise / found.step / found.step, value))


def _extrapolated(found: Difference, near: Difference, far: Difference, noise: float) -> Refined:
    """Return the curvature without what goes with the square of the step (Richardson).

    What is left is told by the same from twice the steps, and by a quarter of what was taken away.
    """
    value, before = extrapolated(found, near), extrapolated(near, far)
    change = max(abs(value - before), abs(value - found.curvature) / 4)
    rounding = AMPLIFIED * noise / found.step / found.step
    return Refined(found.step, value, _relative(change, value), _relative(rounding, value))


def _relative(error: float, value: float) -> float:
    return error / abs(value) if value and math.isfinite(error) and math.isfinite(value) else math.inf


def extrapolated(near: Difference, far: Difference) -> float:
    """Return the curvature at step 0 of two differences, one of twice the step of the other (Richardson)."""
    return (4 * near.curvature - far.curvature) / 3
