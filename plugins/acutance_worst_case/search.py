"""Where the searches start, and what the best of them says."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.measure import Estimate
from acutance.numerics.auto_pgd import Maximum, auto_pgd
from acutance.numerics.balls import L2, Linf, ball
from acutance.numerics.draws import Streams
from acutance.numerics.scalars import Scalar, scalar
from acutance.probe import Probe
from acutance.surface import LossSurface
from acutance_worst_case import released

if TYPE_CHECKING:
    from acutance_worst_case.plugin import WorstCaseSpec


class Perturbed:
    r"""The loss as a function of :math:`\gamma`: :math:`F(\gamma) = L_S(w^* + c \odot \gamma)`.

    The gradient in these coordinates is :math:`c \odot \nabla L_S`, which vanishes where c does: such
    coordinates never move. One vector serves as the perturbed weights and, once they have served, as the gradient.

    Args:
        surface: whose loss.
        c: (p,) scaling, or None for ones.
    """

    def __init__(self, surface: LossSurface, c: Tensor | None) -> None:
        self.surface, self.c = surface, c
        self._probe = Probe(surface, c)

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Tensor]:
        """Return loss, logits and gradient, which holds until the next call."""
        found = self._probe.move(x).gradient(out=self._probe.w)
        assert found.gradient is not None
        return scalar(found.loss), found.raw, found.gradient

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits."""
        found = self._probe.move(x).value()
        return scalar(found.loss), found.raw

    def origin(self) -> tuple[Scalar, Tensor, Tensor]:
        """Return loss, logits and gradient at w*, from the one pass that all specs share."""
        found = self.surface.clean_gradient()
        assert found.gradient is not None
        g = self._probe.w.copy_(found.gradient)
        return scalar(found.loss), found.raw, g if self.c is None else g.mul_(self.c)


class FromOrigin(Perturbed):
    """The same function, whose first evaluation is the shared one at w*."""

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Tensor]:
        """Return loss, logits and gradient; at the first call those at w*."""
        self.__class__ = Perturbed  # type: ignore[assignment]
        return self.origin()


def largest_rise(surface: LossSurface, spec: WorstCaseSpec, rng: Streams) -> Estimate:
    """Return the best rise over all restarts, with how it was reached."""
    view = surface.restricted(spec.parameters).transformed(spec.logit_norm, spec.norm_scale)
    c = scaling.vector(view, spec.scaling)
    if spec.mode == "released":
        best = released.search(FromOrigin(view, None), view.w, c, spec.norm, spec.rho, spec.steps)
        gamma = best.x if c is None else torch.where(c > 0, best.x / c, 0.0)
    else:
        objective = Perturbed(view, c)
        found = [_climb(objective, spec, rng, restart) for restart in range(spec.restarts)]
        best = functools.reduce(_better, found)
        gamma = best.x
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


def _climb(objective: Perturbed, spec: WorstCaseSpec, rng: Streams, restart: int) -> Maximum:
    """Search at the radii of the ladder and then at rho; each start is the last best point, scaled to the new ball.

    The last best point itself lies in every later ball, so the value never falls from rung to rung.
    """
    radii = (*spec.ladder, spec.rho)
    best = _search(objective, ball(spec.norm, radii[0]), spec, rng, restart)
    for smaller, larger in itertools.pairwise(radii):
        found = auto_pgd(objective, best.x * (larger / smaller), ball(spec.norm, larger), spec.steps)
        best = _better(best, found)
    return best


def _search(objective: Perturbed, region: L2 | Linf, spec: WorstCaseSpec, rng: Streams, restart: int) -> Maximum:
    """Run Auto-PGD from the start that the spec asks for, keeping a screened point that beats it."""
    w = objective.surface.w
    if spec.start == "random" or (spec.start == "zero" and restart > 0):
        return auto_pgd(objective, _random(objective, region, rng, restart, 0), region, spec.steps)
    if spec.start == "zero":
        first = FromOrigin(objective.surface, objective.c)
        return auto_pgd(first, torch.zeros_like(w), region, spec.steps)

    points = [_random(objective, region, rng, restart, i) for i in range(spec.candidates)]
    if restart == 0:
        points.insert(0, region.steepest(objective.origin()[2]))
    screened = [Maximum(x, *(pair := objective.value(x)), pair[0]) for x in points]
    if restart == 0 or not screened:
        loss, logits, _ = objective.origin()
        screened.append(Maximum(torch.zeros_like(w), loss, logits, loss))
    top = max(screened, key=lambda m: _rank(float(m.value)))
    from_origin = restart == 0 and top is screened[-1]
    function = FromOrigin(objective.surface, objective.c) if from_origin else objective
    return auto_pgd(function, top.x, region, spec.steps)


def _random(objective: Perturbed, region: L2 | Linf, rng: Streams, restart: int, i: int) -> Tensor:
    """Return a point uniform in the ball over the coordinates that can move, (p,)."""
    w, k = objective.surface.w, restart * 1024 + i
    noise = rng.normal("start.l2", k, w) if region.gaussian else rng.uniform("start.linf", k, w)
    if objective.c is not None:
        noise *= objective.c != 0
    return region.random(noise, rng.number("start.radius", k))


def _rank(value: float) -> float:
    """NaN is never the best."""
    return -math.inf if math.isnan(value) else value


def _better(a: Maximum, b: Maximum) -> Maximum:
    best = a if float(a.value) >= float(b.value) else b
    best.value_half = max(float(a.value_half), float(b.value_half))
    return best
