"""Vectors over the free parameters that nobody holds as one: noise of a seed, or parts that lie apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from acutance.model.shares import Portion
from acutance.numerics.draws import BLOCK

if TYPE_CHECKING:
    from acutance.scaling import PieceUnits


class Blocks(Protocol):
    """A vector over the free parameters, (p,), that comes in blocks: noise of a seed, or tensors that lie apart.

    Of a sharded model a process makes all numbers of noise, and has its own of tensors that lie apart.
    """

    def blocks(self) -> Iterator[Tensor]:
        """Yield it from its beginning, one-dimensional tensors of any sizes; each may be written over by the next."""
        ...


@dataclass(frozen=True)
class Apart:
    r"""A vector :math:`s\, c \odot x` whose parts lie apart: a gradient, or changes that an optimizer tells by name.

    Attributes:
        parts: x, one tensor for each free parameter, in any floating-point type, where it is.
        factor: s.
        units: c; None for ones.
        portion: what of the vector this process has, where several processes have it together.
    """

    parts: Sequence[Tensor]
    factor: float = 1.0
    units: PieceUnits | None = None
    portion: Portion | None = None

    def blocks(self) -> Iterator[Tensor]:
        """Yield the numbers in order, in float32 or finer."""
        for i in range(len(self.parts)):
            yield from self._blocks_of(i)

    def _blocks_of(self, i: int) -> Iterator[Tensor]:
        start, part = 0, self.parts[i].reshape(-1)
        fine = torch.promote_types(part.dtype, torch.float32)
        memory = None if part.dtype == fine else torch.empty(min(len(part), BLOCK), dtype=fine, device=part.device)
        for block in part.split(BLOCK):
            numbers = block if memory is None else memory[: len(block)].copy_(block)
            numbers = numbers if self.factor == 1 else numbers * self.factor
            c = None if self.units is None or not len(numbers) else self.units.block(i, start, len(numbers))
            yield numbers if c is None else numbers * c
            start += len(numbers)

    def norm(self, order: float = 2.0) -> float:
        """Return the norm of an order, 1, 2 or infinity, over all processes: sums are made in float64."""
        if self.portion is None:
            return float(_norm(self.blocks(), order))
        each = [_norm(self._blocks_of(i), order) for i in range(len(self.parts))]
        return self.portion.norm(torch.stack(each), order)

    def in_units(self, units: PieceUnits | None) -> Apart:
        """Return the vector times c; its parts are shared."""
        return replace(self, units=units)


def _norm(blocks: Iterable[Tensor], order: float) -> Tensor:
    none = torch.zeros((), dtype=torch.float64)
    norms = [torch.linalg.vector_norm(b, order, dtype=torch.float64).cpu() if len(b) else none for b in blocks]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms), order)
    return norm


@dataclass(frozen=True)
class Segment:
    """Some numbers of a vector that belong to one parameter.

    Attributes:
        i: which of the free parameters.
        start: place of the first number in it.
        numbers: (k,).
        places: of them in the whole parameter, of which a process may hold a part: (k,) int64, or that of the first
            where the others follow.
    """

    i: int
    start: int
    numbers: Tensor
    places: int | Tensor


def held(whole: Iterable[Segment], portion: Portion) -> Iterator[Segment]:
    """Yield what a process holds of segments of whole parameters, by the places in what it holds."""
    for segment in whole:
        share, place, count = portion.shares[segment.i], segment.start, len(segment.numbers)
        low, high = share.before(place), share.before(place + count)
        if high > low:
            numbers = segment.numbers[share.chosen(low, high, place)]
            yield Segment(segment.i, low, numbers, share.places(low, high))


def placed(own: Iterable[Segment], portion: Portion) -> Iterator[Segment]:
    """Yield segments of what a process holds with their places in whole parameters."""
    for segment in own:
        places = portion.shares[segment.i].places(segment.start, segment.start + len(segment.numbers))
        yield replace(segment, places=places)


def places_of(sizes: Sequence[int], portion: Portion | None) -> Iterator[tuple[int, slice, int | Tensor]]:
    """Yield (i, where, places): blocks of what a process holds of each parameter, with their places in all of it.

    Args:
        sizes: of the parameters.
        portion: what of them this process has; None for all.
    """
    for i, size in enumerate(sizes if portion is None else portion.sizes):
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            yield i, slice(start, stop), start if portion is None else portion.shares[i].places(start, stop)


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
            yield Segment(i, start, block[:count], start)
            block, start = block[count:], start + count
