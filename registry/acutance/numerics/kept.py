"""The gradient at the best point of a search over very many weights: as much of it as a step from there needs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from acutance.numerics.scalars import Flag
from acutance.numerics.slopes import Slope
from acutance.numerics.units import Units


class Kept(ABC):
    """Memory of a gradient's own, written over when a better point is found: the gradient itself may pass on.

    Args:
        g: the first one.
    """

    def __init__(self, g: Slope) -> None:
        self._c: Tensor | Units | None = g.c
        self._memory = self._made(g)
        self.replaced(True, g)

    @abstractmethod
    def _made(self, g: Slope) -> Tensor:
        """Return the memory, (p,)."""

    @abstractmethod
    def _write(self, flag: Flag, g: Slope) -> None:
        """Take a gradient where the flag is set."""

    @abstractmethod
    def slope(self, into: Tensor | None = None) -> Slope:
        """Return it for a step, for reading; ``into`` is memory, (p,), that may be taken where some is needed."""

    def again(self, flag: Flag, g: Slope, into: Tensor | None) -> Slope:
        """Return it where the flag is set, else g, which is written over where that is not known on the host."""
        if isinstance(flag, bool):
            return self.slope(into) if flag else g
        return g.replaced(flag, self.slope())

    def replaced(self, flag: Flag, g: Slope) -> Kept:
        """Take another gradient where the flag is set."""
        if flag is not False:
            self._write(flag, g)
        return self


class Copied(Kept):
    """The gradient."""

    def _made(self, g: Slope) -> Tensor:
        return g.new_empty()

    def _write(self, flag: Flag, g: Slope) -> None:
        start = 0
        for part in g.parts:
            here = self._memory[start : start + part.numel()]
            if isinstance(flag, bool):
                here.copy_(part)
            else:
                torch.where(flag, part, here, out=here)
            start += part.numel()

    def slope(self, into: Tensor | None = None) -> Slope:
        """Return the memory."""
        return Slope([self._memory], self._c)


class Signs(Kept):
    """The signs of the gradient, in a quarter of its memory or less: all that a step in a box looks at."""

    def _made(self, g: Slope) -> Tensor:
        self._dtype = g.parts[0].dtype
        return g.new_empty(torch.int8)

    def _write(self, flag: Flag, g: Slope) -> None:
        for product, scratch, here in g.walk(self._memory):
            sign = torch.sign(product, out=scratch).to(torch.int8)
            if isinstance(flag, bool):
                here.copy_(sign)
            else:
                torch.where(flag, sign, here, out=here)

    def slope(self, into: Tensor | None = None) -> Slope:
        """Return numbers of these signs: where c is not zero they keep them when multiplied by it."""
        return Slope([self._memory.to(self._dtype) if into is None else into.copy_(self._memory)], self._c)
