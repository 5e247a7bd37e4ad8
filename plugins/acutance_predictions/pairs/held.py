"""What pairs need of each model: read when it is needed, and held while memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

HELD = 2**30  # bytes of weights of models that are kept on the CPU meanwhile


class Sized(Protocol):
    """What knows how many bytes it takes."""

    @property
    def size(self) -> int:
        """Bytes."""


S = TypeVar("S", bound=Sized)


class Held(Generic[S]):
    """What pairs need of each model, by its place among them.

    Args:
        read: gives it.
        limit: bytes that may be held; at least two models are.
    """

    def __init__(self, read: Callable[[int], S], limit: int) -> None:
        self._read, self._limit = read, limit
        self._known: OrderedDict[int, S] = OrderedDict()

    def __getitem__(self, place: int) -> S:
        if place not in self._known:
            self.keep(place, self._read(place))
        self._known.move_to_end(place)
        return self._known[place]

    def keep(self, place: int, value: S) -> None:
        """Hold what a model has, in place of what was asked for the longest time ago."""
        self._known[place] = value
        while len(self._known) > max(self._limit // max(value.size, 1), 2):
            self._known.popitem(last=False)

    def blocks(self, places: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Yield all pairs of blocks of some models, each with itself first; two blocks are held together."""
        if not places:
            return
        size = max(self._limit // max(self[places[0]].size, 1) // 2, 1)
        blocks = [places[start : start + size] for start in range(0, len(places), size)]
        yield from ((block, other) for a, block in enumerate(blocks) for other in blocks[a:])

    def pairs(self, places: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield all pairs of some models, in an order in which few of them are read twice."""
        for block, other in self.blocks(places) if len(places) > 1 else ():
            if block is other:
                yield from ((i, j) for a, i in enumerate(block) for j in block[a + 1 :])
            else:
                yield from ((i, j) for i in block for j in other)
