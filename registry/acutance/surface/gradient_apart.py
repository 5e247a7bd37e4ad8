"""The gradient of weights in their own types: a part for each parameter, and what rounding does to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.model.conditions import conditions
from acutance.model.derivatives import gradients_into
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
        surface.learn(loss, raw)
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
    portion, whole = surface.core.functional.portion(surface.parameters.free), surface.core.in_one_pass
    parts: list[Tensor | None] = [None] * len(surface.parameters.free)

    def put(i: int, g: Tensor) -> None:
        sum_of_others = parts[i]
        if whole:
            parts[i] = g.reshape(-1)
        elif sum_of_others is None:
            parts[i] = g.reshape(-1).to(torch.promote_types(g.dtype, torch.float32), copy=True).div_(scale)
        else:
            sum_of_others.add_(g.reshape(-1), alpha=1 / scale)

    loss, raw = point.each_gradient(put, scale)
    factor = 1 / scale if whole else 1.0
    # What no output depends on has a gradient of zero, and none where the loss is no number.
    made = [part for part in parts if part is not None]
    return Apart(made, factor if bool(loss.isfinite()) else torch.nan, portion=portion), loss, raw


def exact_sketch(surface: LossSurface, units: PieceUnits | None = None) -> Sketch:
    """Return the sketch of the gradient that the same weights have in float32: a copy of them, and no gradient.

    Costs n forwards and n backwards, in float32.

    Args:
        surface: with native weights.
        units: c; None for ones.
    """
    core, slots = surface.core, surface.parameters.slots
    surface.check()
    core.refuse_derivatives(surface.parameters.free, apart=True)
    wide, sketch = core.functional.in_type(torch.float32), Sketch(surface.parameters.sizes, units)
    with conditions(wide):
        own = zip(core.functional.own_pieces(), slots, strict=True)
        pieces = [piece.to(torch.promote_types(piece.dtype, torch.float32)).view(slot.shape) for piece, slot in own]
    leaves = [pieces[i].detach().requires_grad_() for i in surface.parameters.free]
    pieces = surface.parameters.merged(pieces, leaves)
    with conditions(wide, order=1, recomputed=True), wide.holding(pieces):
        for inputs, targets in core.chunks():
            raw = wide(pieces, wide.cast_inputs(inputs))
            gradients_into(core.head.part(surface.transform(raw), targets, core.n), leaves, sketch.add)
    core.book(forwards=core.n, backwards=core.n)
    return sketch


@torch.no_grad()
def gradient_rounding(gradient: Apart, exact: Sketch) -> float:
    r"""Return the share of its length by which a gradient differs from that of the same weights in float32.

    .. math:: \|c \odot (g - g_{32})\| \,/\, \|c \odot g_{32}\|

    Both are known by random sums, so that one of them need be held. Rounding shows where examples cancel, and where a
    long sum is made in half precision (embeddings and layer normalization on a CPU): what is added to 256 in bfloat16
    is lost.

    Args:
        gradient: c g.
        exact: of c times the other.
    """
    own = Sketch([part.numel() for part in gradient.parts], gradient.units)
    for i, part in enumerate(gradient.parts):
        own.add(i, part, gradient.factor)
    difference, length = float((own.sums - exact.sums).norm()), float(exact.sums.norm())
    return difference / length if length else math.inf if difference else 0.0


class Sketch:
    r"""Sums of a vector's numbers with random signs, :math:`s_b = \sum_{j \in b} \epsilon_j c_j x_j`.

    Every 1024th number is in a sum, so those of fewer are exact. The expectation of the sum of squares is that of the
    vector, and they are linear in it: the sketch of a difference is the difference of sketches (Charikar et al. 2002).

    Args:
        sizes: of the parts.
        units: c; None for ones.

    Attributes:
        sums: (BUCKETS,) float64 on the CPU.
    """

    def __init__(self, sizes: Sequence[int], units: PieceUnits | None = None) -> None:
        self._starts = [0, *accumulate(sizes)]
        self._units = units
        self.sums = torch.zeros(BUCKETS, dtype=torch.float64)

    def add(self, i: int, x: Tensor, factor: float = 1.0) -> None:
        """Add part i of a vector, times a factor."""
        part, start = x.reshape(-1), 0
        for signs in Streams("sketch").noise("signs", "signs", i, len(part)).blocks():
            numbers = part[start : start + len(signs)].to(torch.promote_types(part.dtype, torch.float32)) * factor
            if self._units is not None:
                numbers = numbers * self._units.block(i, start, len(numbers))
            signed = (numbers * signs.to(numbers.device)).double()
            first = (self._starts[i] + start) % BUCKETS
            rows = torch.nn.functional.pad(signed, (first, -(first + len(signed)) % BUCKETS))
            self.sums += rows.view(-1, BUCKETS).sum(0).cpu()
            start += len(signs)
