r"""The vector c, in whose units a search moves, made block by block where a vector of it need not be held."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

LARGE = 1 << 20  # numbers in a vector that is worth walking over less often
HUGE = 1 << 24  # numbers in a vector that is worth a walk, or a pass once a search, not to be held


def large(vector: Tensor) -> bool:
    """Return whether walks over a vector are worth saving: told by its size, so that it is the same everywhere."""
    return vector.numel() >= LARGE


def huge(vector: Tensor) -> bool:
    """Return whether room for a vector is worth saving, at the price of a walk or of a pass once a search."""
    return vector.numel() >= HUGE


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


def part_of(c: Tensor | Units, start: int, end: int) -> Tensor | Units:
    """Return c[start:end], as it is made."""
    return Magnitudes(c.w[start:end]) if isinstance(c, Magnitudes) else block(c, start, end)
