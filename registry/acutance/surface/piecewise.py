"""A point that moves piece by piece: beside the model nothing is held but the weights that it moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from acutance.model.conditions import conditions
from acutance.surface.moving_point import MovingPoint

if TYPE_CHECKING:
    from acutance.numerics.draws import Noise
    from acutance.scaling import PieceUnits
    from acutance.surface.loss_surface import LossSurface


_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Blocks(Protocol):
    """A vector over the free parameters, (p,), that comes in blocks: noise of a seed, or tensors that lie apart."""

    def blocks(self) -> Iterator[Tensor]:
        """Yield it from its beginning, one-dimensional tensors of any sizes; each may be written over by the next."""
        ...


@dataclass(frozen=True)
class Apart:
    """A vector whose parts lie apart, as the changes of parameters that an optimizer tells by name.

    Attributes:
        parts: one tensor for each free parameter, in any floating-point type, where it is.
    """

    parts: Sequence[Tensor]

    def blocks(self) -> Iterator[Tensor]:
        """Yield the parts."""
        return (part.reshape(-1) for part in self.parts)

    def squared(self) -> Tensor:
        """Return the sum of squares, 0-d float64 on the CPU."""
        squares = [torch.linalg.vector_norm(part, dtype=torch.float64).square().cpu() for part in self.parts]
        return torch.stack(squares).sum()


@dataclass(frozen=True)
class Segment:
    """Some numbers of a vector that belong to one parameter.

    Attributes:
        i: which of the free parameters.
        start: place of the first number in it.
        numbers: (k,).
    """

    i: int
    start: int
    numbers: Tensor


def segments(blocks: Iterable[Tensor], sizes: Sequence[int]) -> Iterator[Segment]:
    """Yield the parts of blocks that lie within one parameter.

    Args:
        blocks: in order.
        sizes: of the parameters, whose sum is that of the blocks.
    """
    i, start = 0, 0
    for block in blocks:
        while len(block):
            while start == sizes[i]:
                i, start = i + 1, 0
            count = min(len(block), sizes[i] - start)
            yield Segment(i, start, block[:count])
            block, start = block[count:], start + count


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
            slots = surface.parameters.slots
            pieces = surface.parameters.merged(own, self._moved)
            self._pieces = [piece.view(slot.shape) for piece, slot in zip(pieces, slots, strict=True)]
        self._forward_replay = self._slope_replay = None

    @property
    def pieces(self) -> dict[str, Tensor]:
        """The point: {name: tensor in the parameter's shape, for reading}, the fixed parameters too."""
        return {slot.name: p for slot, p in zip(self._surface.parameters.slots, self._pieces, strict=True)}

    def with_units(self, units: PieceUnits | None) -> PiecewisePoint:
        """Return the same point, in the same memory, moved in other units."""
        other = copy(self)
        other.units = units
        return other

    def place(self, x: Blocks, scale: float = 1.0) -> PiecewisePoint:
        """Go to w* + scale c x; each number is computed in float32 (float64 of such weights) and rounded once."""
        with conditions(self._core.functional):
            for segment in segments(x.blocks(), self._surface.parameters.sizes):
                here = slice(segment.start, segment.start + len(segment.numbers))
                own, moved = self._own[segment.i][here], self._moved[segment.i][here]
                numbers = segment.numbers.to(own.device, non_blocking=True)
                c = None if self.units is None else self.units.block(segment.i, segment.start, len(numbers))
                if c is None:
                    torch.add(own, numbers, alpha=scale, out=moved)
                else:
                    torch.addcmul(own, c, numbers, value=scale, out=moved)
        return self

    def to_neighbours(self, noise: Noise, share: float) -> PiecewisePoint:
        """Go to w* with some weights replaced by one of the two numbers of their type that are next to them.

        Args:
            noise: uniform on [-1, 1]; decides which, and to which side.
            share: of the weights that move, on average.
        """
        with conditions(self._core.functional):
            for segment in segments(noise.blocks(), self._surface.parameters.sizes):
                here = slice(segment.start, segment.start + len(segment.numbers))
                own, moved = self._own[segment.i][here], self._moved[segment.i][here]
                numbers = segment.numbers.to(own.device, non_blocking=True)
                whole = _WHOLE[own.element_size()]
                steps = (numbers > 1 - share).to(whole) - (numbers < share - 1).to(whole)
                # The bits of a number, read as a whole one, count those of its type outwards from zero.
                beside = (own.view(whole) + steps).view(own.dtype)
                torch.where((own != 0) & beside.isfinite(), beside, own, out=moved)
        return self

    def _unshared(self, tensor: Tensor) -> Tensor:
        """Return the tensor, copied if it lies in the memory of a piece, which will move or is the model's own."""
        place = tensor.untyped_storage().data_ptr()
        return tensor.clone() if any(place == p.untyped_storage().data_ptr() for p in self._pieces) else tensor
