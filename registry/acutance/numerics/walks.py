"""Where a search's next iterate lies as weights, and compiled walks that write both at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from acutance.numerics.kernels import kernels
from acutance.numerics.scalars import Scalar, scalar
from acutance.numerics.slopes import blocks
from acutance.numerics.units import Magnitudes, Units, block, huge, large, part_of

T = TypeVar("T")
R = TypeVar("R")

SHARE = 1 << 20  # numbers that one thread walks over at a time
KINDS = (torch.float32, torch.float64)  # of vectors that are walked over


@dataclass
class Destination:
    """The point w + c x of an iterate x, in memory of its own: what the model holds while it is evaluated there.

    Attributes:
        w: (p,) centre.
        c: (p,) units, or None for ones.
        point: (p,) the memory.
        reached: the x whose point a walk has just written there; whoever moves the point asks for it once.
    """

    w: Tensor
    c: Tensor | Units | None
    point: Tensor
    reached: Tensor | None = None

    def taken(self, x: Tensor) -> bool:
        """Return whether the point of x lies there already; asked once, since x may be written over."""
        reached, self.reached = self.reached, None
        return reached is x


def walker(parts: Sequence[Tensor], x: Tensor, to: Destination | None, step: Scalar) -> Walker | None:
    """Return compiled walks from x to the next iterate and its point; None where torch walks.

    That is on accelerators, where numba cannot be had, and where the compiled walk would not be bitwise the one of
    torch. Of short vectors a step is a dozen calls of torch, which cost more than a pass through a small model does.

    Args:
        parts: the gradient.
        x: (p,) iterate.
        to: where the next iterate lies as weights.
        step: its size; a number on the host.
    """
    if to is None or isinstance(step, Tensor):
        return None
    code = compiled_for(x, to.w, to.point, *parts)
    return None if code is None else Walker(code, parts, x, to)


def compiled_for(*vectors: Tensor) -> Any:
    """Return the compiled walks over vectors, or None; the first one says of which type they are, and where."""
    kind = vectors[0].dtype
    if not vectors[0].is_cpu or kind not in KINDS:
        return None
    for v in vectors:
        if v.dtype != kind or v.is_neg() or not v.is_contiguous():
            return None
    return compiled(kind)


class Walker:
    """Walks over the parts of a gradient and whatever lies beside them, shared out among torch's number of threads."""

    def __init__(self, code: Any, parts: Sequence[Tensor], x: Tensor, to: Destination) -> None:
        self._code, self._to = code, to
        self._x, self._kind = x.numpy(), _kind(to.c)
        self._shares, start = list[tuple[Any, slice]](), 0
        for part in parts:
            for g in part.split(SHARE) if part.numel() > SHARE else (part,):
                at = slice(start, start + g.numel())
                self._shares.append((g.numpy(), at))
                start = at.stop
        # A gradient in the point's memory is copied, share by share, before the point is written there.
        self._passing = huge(x) and any(_share_memory(part, to.point) for part in parts)

    def box(self, before: Tensor, out: Tensor, eta: Scalar, rho: float, momentum: float | None) -> None:
        """Write the next iterate in the box of half width rho, and its point."""
        self._next("box", before, out, float(eta), rho, momentum or 0.0, self._kind, momentum is None)

    def sphere(self, before: Tensor, out: Tensor, on: tuple[Scalar, Scalar, Scalar], first: bool) -> None:
        """Write the next iterate in the Euclidean ball, and its point.

        Args:
            before: (p,) the iterate before x.
            out: (p,) the next one.
            on: factors of x, of the one before and of the gradient; for the first step of x + on[2] g, 0 and of g.
            first: whether it is the first step, which has no inertia.
        """
        self._next("sphere", before, out, on, self._kind, first)

    def products(self, before: Tensor) -> tuple[Scalar, ...]:
        """Return the inner products gg, xg, bg, xx, xb, bb of the gradient, x and the iterate before, in one walk."""
        walk, x, b = self._code.products, self._x, before.numpy()
        found = self._each(lambda g, unit, at: walk(g, unit, x[at], b[at], self._kind))
        return tuple(map(sum, zip(*found, strict=True))) if len(found) > 1 else found[0]

    def _next(self, name: str, before: Tensor, out: Tensor, *how: Any) -> None:
        """Walk once; reading and writing the same memory has a loop of its own, which compilers make as fast."""
        x, w, y, point = self._x, self._to.w.numpy(), out.numpy(), self._to.point.numpy()
        if before is out:
            walk = getattr(self._code, f"{name}_in_place")
            self._each(lambda g, unit, at: walk(g, unit, x[at], w[at], y[at], point[at], *how))
        else:
            walk, b = getattr(self._code, name), before.numpy()
            self._each(lambda g, unit, at: walk(g, unit, x[at], b[at], w[at], y[at], point[at], *how))
        self._to.reached = out

    def _each(self, walk: Callable[[Any, Any, slice], Any]) -> list[Any]:
        """Return what a walk over (gradient, units, where they lie) returns for each share, in order."""

        def one(share: tuple[Any, slice]) -> Any:
            g, at = share
            g = g.copy() if self._passing else g
            return walk(g, _units(self._to.c, g, at), at)

        return shared_out(one, self._shares)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _units(c: Tensor | Units | None, g: Any, at: slice) -> Any:
    """Return the array that c is made of there; where c = 1 any array, as g."""
    if c is None:
        return g
    if isinstance(c, Tensor):
        return c.numpy()[at]
    return c.w.numpy()[at] if isinstance(c, Magnitudes) else c.block(at.start, at.stop).numpy()


def _kind(c: Tensor | Units | None) -> int:
    """Return how c is made of its array, as compiled walks tell it."""
    return 0 if c is None else 2 if isinstance(c, Magnitudes) else 1


def shared_out(walk: Callable[[T], R], shares: Sequence[T]) -> list[R]:
    """Return what a walk returns for each share, in order, by as many threads as torch has."""
    threads = min(torch.get_num_threads(), len(shares)) if len(shares) > 1 else 1
    if threads < 2:
        return [walk(share) for share in shares]
    with ThreadPoolExecutor(threads, thread_name_prefix="acutance-walks") as pool:
        return list(pool.map(walk, shares))


def moved(w: Tensor, c: Tensor | Units | None, x: Tensor, scale: float, out: Tensor) -> Tensor:
    """Write w + scale c x to ``out``, all (p,), bitwise as torch does, and return it."""
    return _moved(compiled_for(w, x, out) if large(w) else None, w, c, x, scale, out)


def moved_along(w: Tensor, c: Tensor | Units | None, x: Iterable[Tensor], scale: float, out: Tensor) -> Tensor:
    """Do what ``moved`` does along a vector that comes in blocks, each used while it is in the processor's cache."""
    code, start = compiled_for(w, out) if large(w) else None, 0
    for numbers in x:
        at = slice(start, start + len(numbers))
        _moved(code, w[at], None if c is None else part_of(c, at.start, at.stop), numbers.to(w), scale, out[at])
        start = at.stop
    return out


def _moved(code: Any, w: Tensor, c: Tensor | Units | None, x: Tensor, scale: float, out: Tensor) -> Tensor:
    if code is not None:
        centre, along, to = w.numpy(), x.numpy(), out.numpy()

        def walk(start: int) -> None:
            at = slice(start, min(start + SHARE, len(w)))
            code.move(centre[at], _units(c, along[at], at), along[at], float(scale), to[at], _kind(c))

        shared_out(walk, range(0, w.numel(), SHARE))
    elif c is None:
        torch.add(w, x, alpha=scale, out=out)
    elif isinstance(c, Tensor):
        torch.addcmul(w, c, x, value=scale, out=out)
    else:
        start = 0
        for here, along_it, to_it in blocks(w, x, out):
            torch.addcmul(here, c.block(start, start + len(here)), along_it, value=scale, out=to_it)
            start += len(here)
    return out


def confined(noise: Tensor, c: Tensor | Units | None) -> tuple[Scalar, Scalar]:
    """Write 0 into noise, (p,), where c is 0; return how many of its numbers are not 0, and its squared norm."""
    code = compiled_for(noise)
    if code is not None:
        numbers, kind = noise.numpy(), _kind(c)

        def walk(start: int) -> Any:
            at = slice(start, min(start + SHARE, len(noise)))
            return code.confine(numbers[at], _units(c, numbers[at], at), kind)

        found = shared_out(walk, range(0, noise.numel(), SHARE))
        return float(sum(count for count, _ in found)), sum(squared for _, squared in found)
    count: Scalar = 0.0
    squared: Scalar = 0.0
    start = 0
    for (piece,) in blocks(noise):
        if c is not None:
            piece.masked_fill_(block(c, start, start + len(piece)) == 0, 0.0)
        count = count + scalar(torch.count_nonzero(piece))
        squared = squared + scalar(torch.dot(piece, piece))
        start += len(piece)
    return count, squared


@cache
def compiled(dtype: torch.dtype) -> Any:
    """Return the compiled walks, where numba is there and rounds as torch does on this processor, else None.

    Torch fuses products and sums where the processor can: one with another rounding would give other iterates.
    """
    code = kernels()
    if code is None:
        return None
    w, c, x = torch.randn(3, 1031, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
    found, scale = torch.empty_like(w), 0.3
    for kind, wanted in ((1, torch.addcmul(w, c, x, value=0.3)), (0, torch.add(w, x, alpha=0.3))):
        code.move(w.numpy(), c.numpy(), x.numpy(), scale, found.numpy(), kind)
        if not torch.equal(found, wanted):
            return None
    return code
