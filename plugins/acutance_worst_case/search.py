"""Where the searches start, and what the best of them says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from acutance import scaling
from acutance.measure import Estimate
from acutance.numerics.auto_pgd import Maximum, auto_pgd
from acutance.numerics.balls import L2, Linf, ball
from acutance.numerics.draws import Streams
from acutance.numerics.scalars import Scalar
from acutance.numerics.slopes import Slope, blocks
from acutance.probe import Perturbed
from acutance.surface import LossSurface
from acutance_worst_case import released

if TYPE_CHECKING:
    from acutance_worst_case.plugin import WorstCaseSpec


# Where on the way to the one-step point a search starts: alpha of Auto-PGD. On the boundary of a box the gradient pins
# coordinates before it has said anything about them, and such searches end in poor vertices more often.
INSIDE = 0.75


class FromOrigin:
    """A function whose first gradient, asked for at the origin, is the one that all specs share."""

    def __init__(self, objective: Perturbed) -> None:
        self._objective, self._first = objective, True

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient."""
        if self._first:
            self._first = False
            return self._objective.origin()
        return self._objective.gradient(x)

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits."""
        return self._objective.value(x)


def largest_rise(surface: LossSurface, spec: WorstCaseSpec, rng: Streams) -> Estimate:
    """Return the best rise over all restarts, with how it was reached."""
    view = surface.restricted(spec.parameters).transformed(spec.logit_norm, spec.norm_scale)
    c = scaling.vector(view, spec.scaling)
    objective = Perturbed(view, None if spec.mode == "released" else c)
    with objective.held():
        best = _search(objective, c, spec, rng)
    gamma = torch.where(c > 0, best.x / c, 0.0) if spec.mode == "released" and c is not None else best.x
    clean = view.clean()
    clean_loss = float(clean.loss)
    extras = {
        "value_half": max(float(best.value_half) - clean_loss, 0.0),
        "radius_reached": float(ball(spec.norm, spec.rho).norm(gamma)) / spec.rho,
        "clean_loss": clean_loss,
        "perturbed_loss": float(best.value),
    }
    if view.classifies:
        extras["clean_error"] = float(view.mean_error_of(clean.raw))
        extras["perturbed_error"] = float(view.mean_error_of(best.note))
    # The origin is feasible, so the maximum is never below the clean loss.
    return Estimate(max(float(best.value) - clean_loss, 0.0), extras=extras)


def _search(objective: Perturbed, c: Tensor | None, spec: WorstCaseSpec, rng: Streams) -> Maximum:
    """Return the best point of all restarts."""
    if spec.mode == "released":
        return released.search(FromOrigin(objective), objective.surface.w, c, spec.norm, spec.rho, spec.steps)
    best = _climb(objective, spec, rng, 0)
    for restart in range(1, spec.restarts):
        best = _better(best, _climb(objective, spec, rng, restart))
    return best


def _climb(objective: Perturbed, spec: WorstCaseSpec, rng: Streams, restart: int) -> Maximum:
    """Search at the radii of the ladder and then at rho; each start is the last best point, scaled to the new ball.

    The last best point itself lies in every later ball, so the value never falls from rung to rung.
    """
    radii = (*spec.ladder, spec.rho)
    best = _ascend(objective, ball(spec.norm, radii[0]), spec, rng, restart)
    for smaller, larger in itertools.pairwise(radii):
        found = auto_pgd(objective, best.x * (larger / smaller), ball(spec.norm, larger), spec.steps)
        best = _better(best, found)
    return best


def _ascend(objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int) -> Maximum:
    """Run Auto-PGD from the start that the spec asks for, keeping a screened point that beats it."""
    if spec.start == "random" or (spec.start == "zero" and restart > 0):
        return auto_pgd(objective, _random(objective, region, rng, restart, 0), region, spec.steps)
    if spec.start == "zero":
        return auto_pgd(FromOrigin(objective), torch.zeros_like(objective.surface.w), region, spec.steps)
    screened = _screened(objective, region, spec, rng, restart)
    if screened is None:
        start = torch.zeros_like(objective.surface.w)
        return auto_pgd(FromOrigin(objective) if restart == 0 else objective, start, region, spec.steps)
    if not screened.one_step:
        return auto_pgd(objective, screened.x, region, spec.steps)
    found = auto_pgd(objective, screened.x.mul_(INSIDE), region, spec.steps)
    if screened.value > float(found.value):
        # Made again: it would have been one more vector to hold.
        one_step = region.steepest(objective.origin()[2])
        return Maximum(one_step, screened.value, screened.note, screened.value)
    found.value_half = max(float(found.value_half), screened.value)
    return found


class Screened(NamedTuple):
    """The best of the points looked at for a start: where, F there, logits, and whether it is the one-step point."""

    x: Tensor
    value: float
    note: Tensor
    one_step: bool


def _screened(
    objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int
) -> Screened | None:
    """Return the best of the one-step point and random points; None for the origin, where that is higher.

    Later restarts look at random points alone, while there are some.
    """
    clean = objective.surface.clean_gradient()
    best = None
    for i, x in enumerate(_candidates(objective, region, spec, rng, restart)):
        value, note = objective.value(x)
        if best is None or _rank(float(value)) > _rank(best.value):
            best = Screened(x, float(value), note, one_step=restart == 0 and i == 0)
    if best is None or (restart == 0 and _rank(float(clean.loss)) > _rank(best.value)):
        return None
    return best


def _candidates(
    objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int
) -> Iterator[Tensor]:
    """Yield the points to screen, one at a time, to hold no more than two."""
    if restart == 0:
        yield region.steepest(objective.origin()[2])
    for i in range(spec.candidates):
        yield _random(objective, region, rng, restart, i)


def _random(objective: Perturbed, region: L2 | Linf, rng: Streams, restart: int, i: int) -> Tensor:
    """Return a point uniform in the ball over the coordinates that can move, (p,)."""
    w, k = objective.surface.w, restart * 1024 + i
    noise = rng.normal("start.l2", k, w) if region.gaussian else rng.uniform("start.linf", k, w)
    if objective.c is not None:
        for piece, unit in blocks(noise, objective.c):
            piece.masked_fill_(unit == 0, 0.0)
    return region.random(noise, rng.number("start.radius", k))


def _rank(value: float) -> float:
    """NaN is never the best."""
    return -math.inf if math.isnan(value) else value


def _better(a: Maximum, b: Maximum) -> Maximum:
    best = a if float(a.value) >= float(b.value) else b
    best.value_half = max(float(a.value_half), float(b.value_half))
    return best
