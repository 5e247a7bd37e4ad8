"""Directions through w*: the gradient, the optimizer's step or a random one, as vectors or in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported
from acutance.numerics.slopes import scaled
from acutance.surface.pieces import Blocks
from acutance_hessian.slopes import STILL, scaled_gradient

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.scaling import PieceUnits
    from acutance.surface import LossSurface
    from acutance.surface.moving_point import MovingPoint
    from acutance_hessian.directional_sharpness import DirectionalSpec

NO_STEP = "the optimizer's step is exactly zero in the free parameters: there is no direction"
OUTSIDE = (
    "the optimizer's step moves weights where c is 0 (scaling {scaling}), which the ball holds fixed: take scaling none"
)
Walk = Callable[[float, int], "MovingPoint"]


@dataclass(frozen=True)
class Vector:
    r"""A direction in the coordinates :math:`\delta \oslash c` as one vector.

    Attributes:
        x: (p,).
        source: ``gradient``, ``optimizer`` or ``random``.
    """

    x: Tensor
    source: str


@dataclass(frozen=True)
class Line:
    r"""A way :math:`w^* + s\, d` that is walked again and again.

    Attributes:
        source: ``gradient``, ``optimizer`` or ``random``.
        norm: of :math:`d \oslash c`.
        reach: the s, times that norm, at which the way is as long as the weights.
        walk: of a surface: goes to w* + s d there, and returns the point; weights in half precision are rounded at
            random, in a way that an integer names. Opposite moves are then rounded to opposite ones, since w* itself is
            a number of that type: what is rounded of first order cancels in a second difference.
    """

    source: str
    norm: float
    reach: float
    walk: Callable[[LossSurface], Walk]


@torch.no_grad()
def vector(surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Vector:
    """Return the direction that settings ask for.

    Raises:
        Unsupported: where it is zero, or leads out of the space of the coordinates.
    """
    base = surface.restricted(spec.parameters)
    view = base.transformed(spec.logit_norm, spec.norm_scale)
    if spec.direction == "random":
        return Vector(rng.normal("direction", 0, base.w), "random")
    if spec.direction == "update":
        update, c = view.update(), scaling.vector(base, spec.scaling)
        if update.source == "gradient":  # minus that
            return Vector(-update.vector if c is None else c.mul(update.vector).neg_(), "gradient")
        return Vector(_divided(update.vector, c, spec.scaling), update.source)
    return Vector(scaled_gradient(surface, spec), "gradient")


@torch.no_grad()
def line(surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Line:
    """Return the same as a line, of which native weights hold no vector.

    Raises:
        Unsupported: as ``vector``.
    """
    base = surface.restricted(spec.parameters)
    view = base.transformed(spec.logit_norm, spec.norm_scale)
    if view.in_parts or (spec.direction == "random" and view.moves_in_place):
        return _in_parts(base, view, spec, rng)
    found = vector(surface, spec, rng)
    c = scaling.by_block(base, spec.scaling)
    norm = _length(found.x)
    if norm == 0:
        raise Unsupported(NO_STEP if found.source == "optimizer" else STILL)
    moved = norm if c is None else _length(scaled(found.x, c))

    def walk(view: LossSurface) -> Walk:
        point = view.moving_point(c)
        return lambda s, _: point.move(found.x, s)

    return Line(found.source, norm, _reach(_length(view.w), norm, moved), walk)


def _in_parts(base: LossSurface, view: LossSurface, spec: DirectionalSpec, rng: Streams) -> Line:
    units = scaling.units(base, spec.scaling)
    step = view.update_apart() if spec.direction == "update" else None
    along = units if step is None else None  # by which the blocks are multiplied on the way
    x: Blocks
    if step is not None:
        x, source = step, "optimizer"
    elif spec.direction == "random":
        x, source = rng.noise("normal", "direction", 0, base.size), "random"
    else:
        x, source = view.gradient_apart(units), "gradient"
    norm, moved = _lengths(x, base, units, spec.scaling, divided=step is not None)
    if norm == 0:
        raise Unsupported(STILL if step is None else NO_STEP)
    weights = scaling.units(base, "elementwise")  # |w|, which is as long as w
    assert weights is not None

    def walk(view: LossSurface) -> Walk:
        point = view.piecewise_point(along)
        return lambda s, k: point.place(x, s, view.dither.child("curvature", k))

    return Line(source, norm, _reach(weights.norm(), norm, moved), walk)


def _lengths(x: Blocks, base: LossSurface, units: PieceUnits | None, scale: str, divided: bool) -> tuple[float, float]:
    """Return the norms of d / c and of d, where the blocks are d (``divided``) or d / c."""
    squares = torch.zeros(len(base.parameters.sizes), 2, dtype=torch.float64)
    for segment in base.segments(x):
        numbers = segment.numbers
        if units is None:
            other = numbers
        else:
            c = units.block(segment.i, segment.start, len(numbers))
            numbers = numbers.to(c.device)
            other = _divided(numbers, c, scale) if divided else numbers * c
        pair = (other, numbers) if divided else (numbers, other)
        both = [torch.linalg.vector_norm(v, dtype=torch.float64).square().cpu() for v in pair]
        squares[segment.i] += torch.stack(both)
    norm, moved = base.summed(squares).sum(0).sqrt().tolist()
    return norm, moved


def _divided(d: Tensor, c: Tensor | None, scale: str) -> Tensor:
    """Return d / c, 0 where both are 0.

    Raises:
        Unsupported: where c alone is.
    """
    if c is None:
        return d
    if bool(((c == 0) & (d != 0)).any()):
        raise Unsupported(OUTSIDE.format(scaling=scale))
    return torch.where(c == 0, torch.zeros_like(d), d / c)


def _length(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def _reach(whole: float, norm: float, moved: float) -> float:
    return whole * norm / moved if moved else 0.0
