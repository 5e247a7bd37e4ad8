"""Where the searches start, and what the best of them says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance.numerics.auto_pgd import Maximum, auto_pgd, half
from acutance.numerics.balls import L2, Linf, ball
from acutance.numerics.draws import Streams
from acutance.numerics.scalars import Scalar
from acutance.numerics.slopes import Slope
from acutance.numerics.units import Units, huge
from acutance_worst_case import released

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance.surface.perturbed import Perturbed
    from acutance_worst_case.measure import WorstCaseSpec


# Steps after which a rung decides between the last rung's best point and a start of its own. The first is higher at
# once, but some climbs lead nowhere; more steps tell no more (benchmarks/results/search_quality).
LOOK = 2
# Where on the way to the one-step point a search starts: alpha of Auto-PGD. On the boundary of a box the gradient pins
# coordinates before it has said anything about them, and such searches end in poor vertices more often.
INSIDE = 0.75
# A search in the Euclidean ball that stays where it is for a quarter of its steps, up to this share of its rise, is
# stuck: what is left finds more from another start. In a box it rises again when its steps get shorter,
# and where c = 1 the published search is the same one, and shorter by half it would fall behind.
GAIN = 0.01


class FromOrigin:
    """A function whose first gradient, asked for at the origin, is the one that all specs share."""

    def __init__(self, objective: Perturbed) -> None:
        self._objective, self._first = objective, True
        self.destination = objective.destination

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient."""
        if self._first:
            self._first = False
            found = self._objective.origin()
            self._objective.surface.forget_gradient()
            return found
        return self._objective.gradient(x)

    def passing(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient, which lasts until the next pass."""
        if self._first:
            return self.gradient(x)
        return self._objective.passing(x)

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits."""
        return self._objective.value(x)


def largest_rises(surface: LossSurface, specs: Sequence[WorstCaseSpec], rng: Streams) -> list[Estimate]:
    """Return the best rise of every spec, with how it was reached; rungs of one ladder share its climb."""
    estimates: dict[int, Estimate] = {}
    for climb in climbs(specs):
        before = surface.cost
        reached = _reached(surface, specs[climb[-1]], {_radii(specs[i]) for i in climb}, rng)
        share = (surface.cost - before) * (1 / len(climb))
        for i in climb:
            estimates[i] = replace(reached[_radii(specs[i])], cost=share)
    return [estimates[i] for i in range(len(specs))]


Radii = tuple[float, ...]


def _radii(spec: WorstCaseSpec) -> Radii:
    """Return the radii of the balls that a spec searches, in order."""
    return (*spec.ladder, spec.rho)


def climbs(specs: Sequence[WorstCaseSpec]) -> list[list[int]]:
    """Return the specs in groups, by index: in each, the radii of one are the first ones of the next."""
    climbs: list[list[int]] = []
    settings = [spec.model_copy(update={"rho": 1.0, "ladder": ()}) for spec in specs]
    for i in sorted(range(len(specs)), key=lambda i: len(specs[i].ladder)):
        radii = _radii(specs[i])
        for climb in climbs:
            below = _radii(specs[climb[-1]])
            if settings[climb[0]] == settings[i] and radii[: len(below)] == below:
                climb.append(i)
                break
        else:
            climbs.append([i])
    return climbs


class Stuck:
    """The test of whether a search of F has stopped rising, and its last answer.

    Args:
        clean: F at the origin.

    Attributes:
        stopped: what the last call returned; False before the first one.
    """

    def __init__(self, clean: float) -> None:
        self._clean, self.stopped = clean, False

    def __call__(self, quarter: Scalar, half_way: Scalar, last: Scalar) -> bool:
        """Return whether the search stays where it is: hardly higher than after a quarter of its steps.

        Where the last point is far below the best one its steps are too long: it rises again when they get shorter.
        """
        before, now, here = (float(value) - self._clean for value in (quarter, half_way, last))
        lowest = now * (1 - GAIN)
        self.stopped = not lowest > before and not here < lowest
        return self.stopped


def _reached(surface: LossSurface, spec: WorstCaseSpec, wanted: set[Radii], rng: Streams) -> dict[Radii, Estimate]:
    """Climb as the spec says, and return what was reached at those rungs that are wanted."""
    view = surface.restricted(spec.parameters).transformed(spec.logit_norm, spec.norm_scale)
    released_mode = spec.mode == "released"
    c = scaling.vector(view, spec.scaling) if released_mode else scaling.by_block(view, spec.scaling)
    objective = view.perturbed(None if released_mode else c)
    best: dict[Radii, Estimate] = {}
    starts: dict[Radii, list[float]] = {radii: [] for radii in wanted}
    with objective.held():
        for restart in range(spec.restarts):
            for radii, maximum in _climb(objective, c, spec, rng, restart):
                if radii in wanted:
                    estimate = _estimate(view, c, spec, radii[-1], maximum)
                    best[radii] = _higher(best[radii], estimate) if radii in best else estimate
                    starts[radii] += map(float, maximum.starts or (maximum.value,))
                del maximum  # its memory serves the next search
    clean = float(view.clean().loss)
    return {
        radii: replace(estimate, extras={**estimate.extras, **_spread([value - clean for value in starts[radii]])})
        for radii, estimate in best.items()
    }


def highest_point(surface: LossSurface, spec: WorstCaseSpec, rng: Streams) -> Tensor:
    """Return delta of the highest point that the searches of a spec find, (p,) over the surface's free parameters.

    Raises:
        Unsupported: where the search let go of its point, as it does for so many weights that it needs the memory.
    """
    view = surface.restricted(spec.parameters).transformed(spec.logit_norm, spec.norm_scale)
    is_released = spec.mode == "released"
    c = scaling.vector(view, spec.scaling)
    objective = view.perturbed(None if is_released else c)
    best: Maximum | None = None
    with objective.held():
        for restart in range(spec.restarts):
            for radii, maximum in _climb(objective, c, spec, rng, restart):
                if len(radii) == len(spec.ladder) + 1:
                    best = maximum if best is None else _better(best, maximum)
    assert best is not None
    if not best.x.numel():
        raise Unsupported("the search of so many weights keeps no point: add a ladder of radii")
    delta = best.x if is_released or c is None else best.x * c
    return surface.flatten(dict(_every(surface, view, delta)))


def _every(surface: LossSurface, view: LossSurface, delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the moves of all free parameters of a surface by name: zero where a view of it fixes them."""
    moved = view.unflatten(delta)
    for name, own in surface.unflatten(surface.w).items():
        yield name, moved[name] if name in moved else torch.zeros_like(own)


def _spread(rises: Sequence[float]) -> dict[str, float]:
    """Return how many starts were searched, and by how much of the highest rise the lowest is below it."""
    highest = max(rises)
    differ = (highest - min(rises)) / highest if highest > 0 else 0.0
    return {"starts": float(len(rises)), "starts_differ": differ}


def _higher(a: Estimate, b: Estimate) -> Estimate:
    """Return the estimate that reached a higher loss, with the better of their values half-way."""
    best = a if a.extras["perturbed_loss"] >= b.extras["perturbed_loss"] else b
    half = max(a.extras["value_half"], b.extras["value_half"])
    return replace(best, extras={**best.extras, "value_half": half})


def _estimate(view: LossSurface, c: Tensor | Units | None, spec: WorstCaseSpec, rho: float, best: Maximum) -> Estimate:
    """Return the rise at the best point of the search, max F - L_S(w*), with the losses and errors beside it."""
    gamma = best.x
    if spec.mode == "released" and c is not None:
        assert isinstance(c, Tensor)
        gamma = torch.where(c > 0, best.x / c, 0.0)
    clean = view.clean()
    clean_loss = float(clean.loss)
    extras = {
        "value_half": max(float(best.value_half) - clean_loss, 0.0),
        "radius_reached": float(ball(spec.norm, rho).norm(gamma) if best.norm is None else best.norm) / rho,
        "clean_loss": clean_loss,
        "perturbed_loss": float(best.value),
    }
    if view.classifies:
        extras["clean_error"] = float(view.mean_error_noted(clean.note))
        extras["perturbed_error"] = float(view.mean_error_noted(best.note))
    # The origin is feasible, so the maximum is never below the clean loss.
    estimate = Estimate(max(float(best.value) - clean_loss, 0.0), extras=extras)
    return scaling.resolved(estimate, view, spec.scaling, rho)


def _climb(
    objective: Perturbed, c: Tensor | Units | None, spec: WorstCaseSpec, rng: Streams, restart: int
) -> Iterator[tuple[Radii, Maximum]]:
    """Search at the radii of the ladder and then at rho.

    A few steps from the last best point, scaled to the new ball, and from a start of this ball tell which is better;
    the higher point goes on. The last best point itself lies in every later ball, so the value never falls.
    """
    radii = _radii(spec)
    if spec.mode == "released":
        assert not isinstance(c, Units)
        yield radii, released.search(FromOrigin(objective), objective.surface.w, c, spec.norm, spec.rho, spec.steps)
        return
    best = _ascend(objective, ball(spec.norm, radii[0]), spec, rng, restart)
    yield radii[:1], best
    remaining = steps_after_looks(spec.steps)
    # Names hold no more than the best point: each search needs the memory of the one before.
    for i, (smaller, larger) in enumerate(itertools.pairwise(radii), start=2):
        region = ball(spec.norm, larger)
        warm = auto_pgd(objective, best.x * (larger / smaller), region, LOOK if remaining else spec.steps)
        looks: tuple[Scalar, ...] = (warm.value,)
        best = _better(best, warm)
        del warm
        if remaining:
            cold = auto_pgd(*_cold(objective, region, spec, rng, restart), region, LOOK)
            looks = (*looks, cold.value)
            best = _better(best, cold)
            del cold
            best = _better(best, auto_pgd(objective, best.x.clone(), region, remaining))
        best = replace(best, starts=looks)
        yield radii[:i], best


def steps_after_looks(steps: int) -> int:
    """Return the steps of a rung that are left after two looks; 0 where there are too few for any.

    Three searches make two forwards more than one of as many steps: two steps less, and the rung costs no more.
    """
    return max(steps - 2 * LOOK - 2, 0)


def _cold(
    objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int
) -> tuple[Perturbed | FromOrigin, Tensor]:
    """Return the objective and the first point, (p,), of a search that knows no smaller ball."""
    if spec.start == "random" or restart > 0:
        return objective, _random(objective, region, rng, restart, 0)
    if spec.start == "zero":
        return FromOrigin(objective), torch.zeros_like(objective.surface.w)
    return objective, _inside(objective, region)


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
    maximum = _from_two(objective, region, spec, rng, restart, screened)
    if screened.where != ONE_STEP:
        return maximum
    if screened.value > float(maximum.value):
        # Made again: it would have been one more vector to hold.
        one_step = region.steepest(objective.origin()[2])
        return Maximum(one_step, screened.value, screened.note, screened.value, starts=maximum.starts)
    maximum.value_half = max(float(maximum.value_half), screened.value)
    return maximum


def _from_two(
    objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int, screened: Screened
) -> Maximum:
    """Run Auto-PGD; where it is stuck half-way, make the steps that are left from another start: the higher counts.

    Both together make as many passes as the one search would have made.
    """

    def start(where: int) -> Tensor:
        if where == ONE_STEP:
            return _inside(objective, region)
        objective.surface.forget_gradient()
        return _random(objective, region, rng, restart, where)

    remaining = spec.steps - half(spec.steps) - 1
    if remaining < 1 or screened.second is None or not region.gaussian or objective.c is None:
        return auto_pgd(objective, start(screened.where), region, spec.steps)
    stuck = Stuck(float(objective.surface.clean().loss))
    first = auto_pgd(objective, start(screened.where), region, spec.steps, stuck)
    if not stuck.stopped:
        return first
    if huge(first.x) and not spec.ladder:
        # Nothing but its norm is asked for any more, and the other search needs the memory.
        first = replace(first, norm=region.norm(first.x), x=first.x.new_empty(0))
    again = auto_pgd(objective, start(screened.second), region, remaining)
    best = first if float(first.value) >= float(again.value) else again
    return replace(best, value_half=first.value_half, starts=(first.value, again.value))


def _inside(objective: Perturbed, region: L2 | Linf) -> Tensor:
    """Return a start on the way to the one-step point, (p,)."""
    start = region.steepest(objective.origin()[2]).mul_(INSIDE)
    objective.surface.forget_gradient()
    return start


ONE_STEP = -1  # which start it is; others are random points, by number


class Screened(NamedTuple):
    """The best of the points looked at for a start.

    Attributes:
        where: ``ONE_STEP``, or the number of a random point.
        value: F there.
        note: what is kept of the outputs there.
        second: the best point of the other kind, where there is one: a random point, or ``ONE_STEP``.
    """

    where: int
    value: float
    note: Tensor
    second: int | None


def _screened(
    objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int
) -> Screened | None:
    """Return the best of the one-step point and random points; None for the origin, where that is higher.

    Later restarts look at random points alone, while there are some.
    """
    best, values = None, dict[int, float]()
    for where, x in _candidates(objective, region, spec, rng, restart):
        value, note = objective.value(x)
        values[where] = _rank(float(value))
        if best is None or values[where] > _rank(best.value):
            best = Screened(where, float(value), note, None)
    if best is None or (restart == 0 and _rank(float(objective.origin()[0])) > _rank(best.value)):
        return None
    if restart > 0 or spec.candidates == 0:
        return best
    drawn = [where for where in values if where != ONE_STEP]
    return best._replace(second=max(drawn, key=values.__getitem__) if best.where == ONE_STEP else ONE_STEP)


def _candidates(
    objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the points to screen with where they are, one at a time, to hold no more than two."""
    if restart == 0:
        yield ONE_STEP, region.steepest(objective.origin()[2])
    for i in range(spec.candidates):
        yield i, _random(objective, region, rng, restart, i)


def _random(objective: Perturbed, region: L2 | Linf, rng: Streams, restart: int, i: int) -> Tensor:
    """Return a point uniform in the ball over the coordinates that can move, (p,)."""
    w, k = objective.surface.w, restart * 1024 + i
    noise = rng.normal("start.l2", k, w) if region.gaussian else rng.uniform("start.linf", k, w)
    return region.random(noise, rng.number("start.radius", k), objective.c)


def _rank(value: float) -> float:
    """NaN is never the best."""
    return -math.inf if math.isnan(value) else value


def _better(a: Maximum, b: Maximum) -> Maximum:
    """Return the better one, with the better of their values half-way; neither is changed: a rung may be kept."""
    best = a if float(a.value) >= float(b.value) else b
    return replace(best, value_half=max(float(a.value_half), float(b.value_half)))
