r"""The vector c, in whose units a search moves, made block by block where a vector of it need not be held."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

LARGE = 1 << 20  # numbers in a vector that is worth walking over less often, and not worth holding


class Units(ABC):
    """c, (p,) and not negative, of which only blocks are asked for."""

    @abstractmethod
    def block(self, start: int, end: int) -> Tensor:
        """Return c[start:end], for reading."""


class Magnitudes(Units):
    """c = abs(w), from the weights themselves.

    Args:
        w: (p,).
    """

    def __init__(self, w: Tensor) -> None:
        self.w = w

    def block(self, start: int, end: int) -> Tensor:
        """Return abs(w) there, in new memory."""
        return self.w[start:end].abs()


def block(c: Tensor | Units, start: int, end: int) -> Tensor:
    """Return c[start:end], for reading."""
    return c[start:end] if isinstance(c, Tensor) else c.block(start, end)
