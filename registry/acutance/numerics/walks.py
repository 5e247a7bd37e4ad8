"""Where a search's next iterate lies as weights, and compiled walks that write both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from acutance.numerics.scalars import Scalar
from acutance.numerics.units import LARGE, Magnitudes, Units, block

SHARE = 1 << 18  # numbers that one thread walks over at a time


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

    That is on accelerators, for short vectors, where numba cannot be had, and where the compiled walk would not be
    bitwise the one of torch.

    Args:
        parts: the gradient.
        x: (p,) iterate.
        to: where the next iterate lies as weights.
        step: its size; a number on the host.
    """
    if to is None or x.numel() < LARGE or x.device.type != "cpu" or isinstance(step, Tensor):
        return None
    vectors = (x, to.w, to.point, *parts)
    if x.dtype not in (torch.float32, torch.float64) or any(
        v.dtype != x.dtype or v.is_neg() or not v.is_contiguous() for v in vectors
    ):
        return None
    code = compiled(x.dtype)
    return None if code is None else Walker(code, parts, x, to)


class Walker:
    """Walks over the parts of a gradient and whatever lies beside them, shared out among torch's number of threads."""

    def __init__(self, code: Any, parts: Sequence[Tensor], x: Tensor, to: Destination) -> None:
        self._code, self._parts, self._x, self._to = code, parts, x, to
        self._number: Any = code.number[str(x.dtype).removeprefix("torch.")]
        self._scaled = to.c is not None

    def box(self, before: Tensor, out: Tensor, eta: Scalar, rho: float, momentum: float | None) -> None:
        """Write the next iterate in the box of half width rho, and its point."""
        m = momentum or 0.0
        inertia = tuple(map(self._number, (-m, 2 * m, 1 - m)))
        self._next("box", before, out, self._number(eta), self._number(rho), inertia, self._scaled, momentum is None)

    def sphere(self, before: Tensor, out: Tensor, on: tuple[Scalar, Scalar, Scalar], first: bool) -> None:
        """Write the next iterate in the Euclidean ball, and its point.

        Args:
            before: (p,) the iterate before x.
            out: (p,) the next one.
            on: factors of x, of the one before and of the gradient; for the first step of x + on[2] g, 0 and of g.
            first: whether it is the first step, which has no inertia.
        """
        self._next("sphere", before, out, tuple(map(self._number, on)), self._scaled, first)

    def products(self, before: Tensor) -> tuple[Scalar, ...]:
        """Return the inner products gg, xg, bg, xx, xb, bb of the gradient, x and the iterate before, in one walk."""
        walk, x, b = self._code.products, self._x.numpy(), before.numpy()
        found = self._each(lambda g, unit, at: walk(g, unit, x[at], b[at], self._scaled))
        return tuple(map(sum, zip(*found, strict=True)))

    def _next(self, name: str, before: Tensor, out: Tensor, *how: Any) -> None:
        """Walk once; reading and writing the same memory has a loop of its own, which compilers make as fast."""
        x, b, w, y, point = (v.numpy() for v in (self._x, before, self._to.w, out, self._to.point))
        if before is out:
            walk = getattr(self._code, f"{name}_in_place")
            self._each(lambda g, unit, at: walk(g, unit, x[at], w[at], y[at], point[at], *how))
        else:
            walk = getattr(self._code, name)
            self._each(lambda g, unit, at: walk(g, unit, x[at], b[at], w[at], y[at], point[at], *how))
        self._to.reached = out

    def _each(self, walk: Callable[[Any, Any, slice], Any]) -> list[Any]:
        """Return what a walk over (gradient, units, where they lie) returns for each share, in order."""
        shares, start = [], 0
        for part in self._parts:
            for g in part.split(SHARE):
                shares.append((g.numpy(), slice(start, start + g.numel())))
                start += g.numel()

        def one(share: tuple[Any, slice]) -> Any:
            g, at = share
            return walk(g, self._units(g, at), at)

        threads = min(torch.get_num_threads(), len(shares))
        if threads < 2:
            return [one(share) for share in shares]
        with ThreadPoolExecutor(threads, thread_name_prefix="acutance-walks") as pool:
            return list(pool.map(one, shares))

    def _units(self, g: Any, at: slice) -> Any:
        """Return an array whose magnitudes are c there; any array where c = 1."""
        c = self._to.c
        if c is None:
            return g
        return (c.w[at] if isinstance(c, Magnitudes) else block(c, at.start, at.stop)).numpy()


@cache
def compiled(dtype: torch.dtype) -> Any:
    """Return the compiled walks, where numba is there and rounds as torch does on this processor, else None.

    Torch fuses products and sums where the processor can: one with another rounding would give other iterates.
    """
    try:
        from acutance.numerics import compiled as code
    except ImportError:
        return None
    w, c, x = torch.randn(3, 1031, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
    found, scale = torch.empty_like(w), code.number[str(dtype).removeprefix("torch.")](0.3)
    for scaled, wanted in (
        (True, torch.addcmul(w, c.abs(), x, value=0.3)),
        (False, torch.add(w, x, alpha=0.3)),
    ):
        code.move(w.numpy(), c.numpy(), x.numpy(), scale, found.numpy(), scaled)
        if not torch.equal(found, wanted):
            return None
    return code
