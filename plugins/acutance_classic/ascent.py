"""Errors that a search for the highest loss in a box meets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.numerics.auto_pgd import auto_pgd
from acutance.numerics.balls import Linf
from acutance.numerics.scalars import Scalar
from acutance.numerics.slopes import Slope
from acutance_classic.noise import ROUNDING, mean_error, refuse_numbers
from acutance_classic.search import Found, bisect

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance.surface.perturbed import Perturbed
    from acutance_classic.worst_radius import RadiusSpec


class Exceeded(Exception):
    """The error at a point of a search is above the limit: the search need not go on."""


class Guarded:
    """A loss to be maximised from w* that ends the search at the first point whose error is above a limit.

    Args:
        objective: the loss around w*; its first gradient is the one that is known.
        limit: of the error.
    """

    def __init__(self, objective: Perturbed, limit: float) -> None:
        self._objective, self._limit, self._first, self.points = objective, limit, True, 0

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient."""
        if self._first:
            self._first = False
            return self._objective.origin()
        value, raw, slope = self._objective.gradient(x)
        self._look(raw)
        return value, raw, slope

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits."""
        value, raw = self._objective.value(x)
        self._look(raw)
        return value, raw

    def _look(self, raw: Tensor) -> None:
        self.points += 1
        if not mean_error(self._objective.surface, raw) <= self._limit:
            raise Exceeded


def steady_radius(surface: LossSurface, spec: RadiusSpec, eps: float | None) -> Found:
    r"""Return the largest radius of a box in which the ascent of the loss meets no point of too large an error.

    .. math:: |u_i| \le \alpha \ \text{or}\ |u_i| \le \alpha |w_i| + \epsilon

    Searched once for a surface: all members of the family that ask with the same settings share it.
    """
    refuse_numbers(surface)
    settings = (spec.parameters, spec.deviation, spec.steps, spec.smallest, spec.largest, spec.rtol, eps)
    return surface.memo(("classic.radius", settings), lambda: _steady_radius(surface, spec, eps))


@torch.no_grad()
def _steady_radius(surface: LossSurface, spec: RadiusSpec, eps: float | None) -> Found:
    part = surface.restricted(spec.parameters)
    origin = part.clean_gradient()
    clean, points = mean_error(part, origin.note), 0
    limit = (clean + spec.deviation) * (1 + ROUNDING)
    if math.isnan(clean):
        return Found(clean, "the outputs of the model are not finite: there is no accuracy to keep")
    assert origin.gradient is not None
    if not bool(origin.gradient.any()):
        raise Unsupported("the gradient is exactly zero: no direction leads up")

    def within(alpha: float) -> bool:
        nonlocal points
        c = None if eps is None else (part.w.abs() * alpha).add_(eps)
        objective = part.perturbed(c)
        guarded = Guarded(objective, limit)
        try:
            with objective.held():
                auto_pgd(guarded, torch.zeros_like(part.w), Linf(alpha if c is None else 1.0), spec.steps)
        except Exceeded:
            return False
        finally:
            points += guarded.points
        return True

    found = bisect(within, spec, "the accuracy")
    return replace(found, extras={"clean_error": clean, "points": points})
