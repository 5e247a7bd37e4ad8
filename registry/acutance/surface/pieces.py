"""Vectors over the free parameters that nobody holds as one: noise of a seed, or parts that lie apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from acutance.numerics.draws import BLOCK

if TYPE_CHECKING:
    from acutance.scaling import PieceUnits


class Blocks(Protocol):
    """A vector over the free parameters, (p,), that comes in blocks: noise of a seed, or tensors that lie apart."""

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
    """

    parts: Sequence[Tensor]
    factor: float = 1.0
    units: PieceUnits | None = None

    def blocks(self) -> Iterator[Tensor]:
        """Yield the numbers in order, in float32 or finer."""
        for i, part in enumerate(self.parts):
            start = 0
            for block in part.reshape(-1).split(BLOCK):
                numbers = block.to(torch.promote_types(block.dtype, torch.float32))
                numbers = numbers if self.factor == 1 else numbers * self.factor
                c = None if self.units is None else self.units.block(i, start, len(numbers))
                yield numbers if c is None else numbers * c
                start += len(numbers)

    def norm(self, order: float = 2.0) -> float:
        """Return the norm of an order, 1, 2 or infinity: sums are made in float64."""
        norms = [torch.linalg.vector_norm(block, order, dtype=torch.float64).cpu() for block in self.blocks()]
        return float(torch.linalg.vector_norm(torch.stack(norms), order))

    def in_units(self, units: PieceUnits | None) -> Apart:
        """Return the vector times c; its parts are shared."""
        return replace(self, units=units)


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
