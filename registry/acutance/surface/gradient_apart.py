"""The gradient of weights in their own types: a part for each parameter, and what rounding does to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.numerics.draws import Streams
from acutance.surface.pieces import Apart
from acutance.surface.piecewise import PiecewisePoint

if TYPE_CHECKING:
    from acutance.scaling import PieceUnits
    from acutance.surface.loss_surface import LossSurface

# By which the loss of float16 is multiplied: where it begins, the least and the most, and how it goes down and up.
SCALE, LEAST, MOST, DOWN, UP = 2.0**16, 2.0**-8, 2.0**40, 2.0**4, 2.0**8
FINE = 2.0**-4  # of the largest entry: all down to a millionth of it are normal numbers of float16
OVERFLOW = (
    "the gradient overflows in float16, whatever the loss is multiplied by: write surface.dtype: float32 (in Python "
    "dtype='float32')"
)
BUCKETS = 1024  # numbers of a sketch: its length is that of the vector within two percent, twice in three times


def gradient_apart(surface: LossSurface) -> Apart:
    """Return the gradient at w*, a part for each free parameter.

    Of one pass parts are what automatic differentiation gave, in the types of the weights; several microbatches are
    summed up in float32 (float64 of such weights), since bfloat16 loses what is less than 1/256 of a sum. Loss and
    gradient of float16 are multiplied by a power of two, so that its small numbers are not lost and its large ones do
    not overflow; each that is tried is a pass.

    Raises:
        Unsupported: where float16 overflows, or automatic differentiation would be wrong.
    """
    point = PiecewisePoint(surface, moves=False)
    halves = any(part.dtype == torch.float16 for part in point.pieces.values())
    scale, over = SCALE if halves else 1.0, False
    while scale >= LEAST:
        apart, loss, raw = _summed(point, surface, scale)
        surface.core.known.clean_logits = raw
        if not halves or not bool(loss.isfinite()):
            return apart
        largest = apart.norm(math.inf) * scale
        if not math.isfinite(largest):
            scale, over = scale / DOWN, True
        elif largest < FINE and not over and scale < MOST:
            scale *= UP
        else:
            return apart
    raise Unsupported(OVERFLOW)


def _summed(point: PiecewisePoint, surface: LossSurface, scale: float) -> tuple[Apart, Tensor, Tensor]:
    """Return the gradient with loss and logits, differentiated with the loss multiplied by a scale."""
    sizes, whole = surface.parameters.sizes, surface.core.in_one_pass
    parts: list[Tensor] = [torch.empty(0)] * len(sizes)

    def put(i: int, g: Tensor) -> None:
        if whole:
            parts[i] = g.reshape(-1)
        elif len(parts[i]) != sizes[i]:
            parts[i] = g.reshape(-1).to(torch.promote_types(g.dtype, torch.float32), copy=True).div_(scale)
        else:
            parts[i].add_(g.reshape(-1), alpha=1 / scale)

    loss, raw = point.each_gradient(put, scale)
    factor = 1 / scale if whole else 1.0
    # What no output depends on has a gradient of zero, and none where the loss is no number.
    return Apart(parts, factor if bool(loss.isfinite()) else torch.nan), loss, raw


@torch.no_grad()
def gradient_rounding(surface: LossSurface, units: PieceUnits | None = None) -> float:
    r"""Return by what share of its length the gradient changes when weights are rounded at random.

    .. math:: \|c \odot (\nabla L(w^* + e) - \nabla L(w^*))\| \,/\, \|c \odot \nabla L(w^*)\|

    with e as for ``rounding``: at every step behind the first weights the numbers are others then, and are rounded to
    others. The difference is of that size whatever the curvature where rounding of the passes is all there is, as in
    sums over examples of which nearly nothing is left. The gradient there is not held: both are known by random sums.

    Costs n forwards and n backwards.

    Args:
        surface: with native weights.
        units: c; None for ones.
    """
    gradient = surface.gradient_apart()
    length = gradient.in_units(units).norm()
    if length == 0:
        return 0.0
    own, moved = Sketch(units), Sketch(units)
    for i, part in enumerate(gradient.parts):
        own.add(i, part, gradient.factor)
    point = surface.piecewise_point()
    point.to_neighbours(Streams("rounding of weights").noise("uniform", "gradient", 0, surface.size), 1 / 12)
    point.each_gradient(lambda i, g: moved.add(i, g, gradient.factor), 1 / gradient.factor)
    return float((moved.sums - own.sums).norm()) / length


class Sketch:
    r"""Sums of a vector's numbers with random signs, :math:`s_b = \sum_{j \in b} \epsilon_j c_j x_j`.

    The expectation of their sum of squares is that of the vector, and they are linear in it: the sketch of a
    difference is the difference of sketches (Charikar et al. 2002).

    Args:
        units: c; None for ones.

    Attributes:
        sums: (BUCKETS,) float64 on the CPU.
    """

    def __init__(self, units: PieceUnits | None = None) -> None:
        self._units = units
        self.sums = torch.zeros(BUCKETS, dtype=torch.float64)

    def add(self, i: int, x: Tensor, factor: float = 1.0) -> None:
        """Add a free parameter's part of a vector, times a factor."""
        part, start = x.reshape(-1), 0
        for signs in Streams("sketch").noise("signs", "signs", i, len(part)).blocks():
            numbers = part[start : start + len(signs)].to(torch.promote_types(part.dtype, torch.float32)) * factor
            if self._units is not None:
                numbers = numbers * self._units.block(i, start, len(numbers))
            signed = (numbers * signs.to(numbers.device)).double()
            rows = len(signed) // BUCKETS * BUCKETS
            self.sums += signed[:rows].view(-1, BUCKETS).sum(0).cpu()
            self.sums[: len(signed) - rows] += signed[rows:].cpu()
            start += len(signs)
