r"""Long vectors walked in blocks, and gradients that are read where automatic differentiation left them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.numerics.scalars import Flag
from acutance.numerics.units import Units, block

BLOCK = 1 << 18  # elements; a few float32 blocks of this size stay in a processor's caches
DEVICE_BLOCK = 1 << 24  # elements on an accelerator: few kernels, and scratch that is small beside the model


def _block_size(vector: Tensor) -> int:
    return BLOCK if vector.is_cpu else DEVICE_BLOCK


def blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield aligned pieces of (p,) vectors, cache-sized on the CPU."""
    p, size = vectors[0].numel(), _block_size(vectors[0])
    if p <= size:
        yield vectors
        return
    for start in range(0, p, size):
        yield tuple(v[start : start + size] for v in vectors)


def scaled(x: Tensor, c: Tensor | Units, out: Tensor | None = None) -> Tensor:
    """Return c x, (p,) or rows of such; in new memory by default, else in ``out``, which may be x."""
    if isinstance(c, Tensor):
        return torch.mul(x, c, out=out)
    out, size = torch.empty_like(x) if out is None else out, _block_size(x)
    for start in range(0, x.shape[-1], size):
        end = min(start + size, x.shape[-1])
        torch.mul(x[..., start:end], c.block(start, end), out=out[..., start:end])
    return out


@dataclass(frozen=True, slots=True)
class Slope:
    r"""The gradient of :math:`F(x) = L(w + c \odot x)`, which is :math:`c \odot \nabla L`, (p,); never written to.

    It stays as the parts that automatic differentiation gave: to put them together and to multiply them would
    cost more memory traffic than a step of a search does. The product is formed block by block where it is used.

    Attributes:
        parts: one-dimensional and contiguous, :math:`\nabla L` when put together.
        c: (p,) scaling, a vector or made block by block; None for ones.
    """

    parts: Sequence[Tensor]
    c: Tensor | Units | None = None

    def walk(self, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield (block of the slope, scratch of its size, block of every (p,) vector).

        The block of the slope is for reading. The scratch is for writing, and may be the block itself.
        """
        first = self.parts[0]
        size = _block_size(first)
        if len(self.parts) == 1 and first.numel() <= size:
            yield (*self._formed(first, 0, torch.empty_like(first)), *vectors)
            return
        scratch, start = first.new_empty(min(size, max(part.numel() for part in self.parts))), 0
        for part in self.parts:
            for piece in part.split(size):
                end = start + piece.numel()
                yield (*self._formed(piece, start, scratch[: end - start]), *[v[start:end] for v in vectors])
                start = end

    def rewalked(self, *vectors: Tensor) -> Callable[[], Iterable[tuple[Tensor, ...]]]:
        """Return what begins a walk, again and again; that over a single block, which stays formed, is made once."""
        if len(self.parts) == 1 and self.parts[0].numel() <= _block_size(self.parts[0]):
            steps = [*self.walk(*vectors)]
            return lambda: steps
        return lambda: self.walk(*vectors)

    def _formed(self, g: Tensor, start: int, scratch: Tensor) -> tuple[Tensor, Tensor]:
        if self.c is None:
            return g, scratch
        return torch.mul(g, block(self.c, start, start + g.numel()), out=scratch), scratch

    def flat(self) -> Tensor:
        """Return it as one vector, (p,), for reading: it may be the only part."""
        g = self.parts[0] if len(self.parts) == 1 else torch.cat(list(self.parts))
        return g if self.c is None else g * block(self.c, 0, g.numel())

    def new_empty(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return uninitialised memory for a vector of its size, (p,)."""
        return self.parts[0].new_empty(sum(part.numel() for part in self.parts), dtype=dtype)

    def snapshot(self) -> Slope:
        """Return a slope to hold beside the best point: itself on a CPU, else a copy that ``replaced`` writes over."""
        return self if self.parts[0].is_cpu else Slope([part.clone() for part in self.parts], self.c)

    def replaced(self, flag: Flag, new: Slope) -> Slope:
        """Return ``new`` where the flag is set, else this one; on an accelerator written over, without a wait."""
        if isinstance(flag, bool):
            return new if flag else self
        for old, part in zip(self.parts, new.parts, strict=True):
            torch.where(flag, part, old, out=old)
        return self
