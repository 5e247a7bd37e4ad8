"""A point that moves piece by piece: beside the model nothing is held but the weights that it moves."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.model.conditions import conditions
from acutance.model.derivatives import gradients_into
from acutance.model.weights import EXACT
from acutance.numerics.rounding import Dither, dithered_move, neighbours
from acutance.surface.moving_point import MovingPoint
from acutance.surface.pieces import Blocks, places_of

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.scaling import PieceUnits
    from acutance.surface.loss_surface import LossSurface


class PiecewisePoint(MovingPoint):
    r"""A point :math:`w^* + s\, c \odot x` whose x comes in blocks, and whose pieces keep their types and devices.

    Its memory is that of the weights that move; those that are fixed are the model's own tensors, which nothing writes
    to. So going back to w* is going to s = 0, and exact.

    Args:
        surface: where to evaluate, of a model whose own tensors stand for w*; passes are booked there.
        units: c; None for ones.
        moves: whether it ever leaves w*; otherwise it holds nothing.
    """

    def __init__(self, surface: LossSurface, units: PieceUnits | None = None, moves: bool = True) -> None:
        self._surface, self._core, self.c = surface, surface.core, None
        self.units = units
        own, free = surface.core.functional.own_pieces(), surface.parameters.free
        self._own = [own[i] for i in free]
        with conditions(surface.core.functional):
            self._moved = [piece.clone() for piece in self._own] if moves else self._own
            pieces = surface.parameters.merged(own, self._moved)
            self._pieces = [p.view(shape) for p, shape in zip(pieces, surface.core.functional.shapes, strict=True)]
            for i in free:
                self._pieces[i] = self._pieces[i].detach().requires_grad_()
            self._leaves = [self._pieces[i] for i in free]
        self._forward_replay = self._slope_replay = None

    @property
    def pieces(self) -> dict[str, Tensor]:
        """The point: {name: tensor in the parameter's shape, for reading}, the fixed parameters too.

        Of a sharded model it is what this process holds of each.
        """
        return {slot.name: p.detach() for slot, p in zip(self._surface.parameters.slots, self._pieces, strict=True)}

    def with_units(self, units: PieceUnits | None) -> PiecewisePoint:
        """Return the same point, in the same memory, moved in other units."""
        other = copy(self)
        other.units = units
        return other

    def place(self, x: Blocks, scale: float = 1.0, dither: Streams | None = None) -> PiecewisePoint:
        """Go to w* + scale c x; each number is computed in float32 (float64 of such weights) and rounded once.

        Args:
            x: (p,).
            scale: s.
            dither: rounds half-precision weights to a neighbour at random, so that no move is lost on average; the
                same way at every scale. By default they are rounded to the nearest.
        """
        with conditions(self._core.functional):
            for segment in self._surface.segments(x):
                here = slice(segment.start, segment.start + len(segment.numbers))
                own, moved = self._own[segment.i][here], self._moved[segment.i][here]
                numbers = segment.numbers.to(own.device, non_blocking=True)
                c = None if self.units is None else self.units.block(segment.i, segment.start, len(numbers))
                if dither is None or own.dtype in EXACT:
                    if c is None:
                        torch.add(own, numbers, alpha=scale, out=moved)
                    else:
                        torch.addcmul(own, c, numbers, value=scale, out=moved)
                    continue
                move = numbers if c is None else c * numbers
                dithered_move(own, move, scale, Dither.of(dither, f"dither {segment.i}"), segment.places, moved)
        return self

    def to_neighbours(self, dither: Streams, share: float) -> PiecewisePoint:
        """Go to w* with some weights replaced by one of the two numbers of their type that are next to them.

        Args:
            dither: decides which, and to which side.
            share: of the weights that move, on average.
        """
        parameters, functional = self._surface.parameters, self._core.functional
        with conditions(functional):
            for i, here, places in places_of(parameters.sizes, functional.portion(parameters.free)):
                bits = Dither.of(dither, f"neighbours {i}")
                neighbours(self._own[i][here], share, bits, places, self._moved[i][here])
        return self

    def each_gradient(self, put: Callable[[int, Tensor], object], scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Hand out the gradient with respect to each free parameter when it is complete; return the loss and logits.

        One forward and one backward over the batch. Of several microbatches each hands out its own gradients, whose
        sum is meant.

        Args:
            put: called with the place among the free parameters, and the gradient in the parameter's type and shape.
            scale: factor of the gradient, that small numbers of float16 may need.
        """
        core = self._core
        self._surface.check()
        core.refuse_derivatives(free := self._surface.parameters.free, apart=True)
        shared = core.functional.sharded

        def take(output: Tensor, seed: Tensor | None) -> None:
            output, seed = (output * scale, None) if seed is None else (output, seed * scale)
            if shared is None:
                gradients_into(output, self._leaves, put, seed)
            else:
                shared.gradients_into(output, free, put, seed)

        loss, raw = self._pass(take)
        core.book(forwards=core.n, backwards=core.n)
        return loss, raw

    def _unshared(self, tensor: Tensor) -> Tensor:
        """Return the tensor, copied if it lies in the memory of a piece, which will move or is the model's own."""
        place = tensor.untyped_storage().data_ptr()
        return tensor.clone() if any(place == p.untyped_storage().data_ptr() for p in self._pieces) else tensor
