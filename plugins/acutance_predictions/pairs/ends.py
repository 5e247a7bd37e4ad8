"""The weights of models that are compared, as ends of segments: read when needed, held while memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from acutance.peers import Peer
    from acutance.surface import LossSurface

T = TypeVar("T", Tensor, float)
HELD = 2**30  # bytes of weights of models that are kept on the CPU meanwhile


@dataclass(frozen=True)
class End:
    """A model as one end of a segment, on the CPU.

    Attributes:
        w: (p,) all of its parameters.
        buffers: {name: tensor} of its floating-point buffers, as running statistics.
    """

    w: Tensor
    buffers: Mapping[str, Tensor]

    @classmethod
    def of(cls, surface: LossSurface) -> End:
        """Return what an open model is, all parameters free."""
        buffers = {name: buffer.detach().cpu() for name, buffer in surface.buffers.items()}
        return cls(surface.w.detach().cpu(), buffers)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(t.numel() * t.element_size() for t in (self.w, *self.buffers.values()))

    def to(self, device: Any) -> End:
        """Return the same on a device."""
        return End(self.w.to(device), {name: buffer.to(device) for name, buffer in self.buffers.items()})


def between(a: End, b: End, k: int, steps: int) -> End:
    """Return the point k/steps of the way from a to b, buffers alike."""
    buffers = {name: on_the_way(buffer, b.buffers[name], k, steps) for name, buffer in a.buffers.items()}
    return End(on_the_way(a.w, b.w, k, steps), buffers)


def on_the_way(x: T, y: T, k: int, steps: int) -> T:
    """Return x + (k/steps) (y - x), of tensors or numbers.

    It is computed from the nearer end, so that it is bitwise what is (steps - k)/steps of the way from y to x, and x
    itself where both are the same.
    """
    if 2 * k == steps:
        return (x + y) / 2
    near, far, share = (x, y, k) if 2 * k < steps else (y, x, steps - k)
    return near + (far - near) * (share / steps)


class Ends:
    """The ends of all models, opened anew where they are not held.

    Args:
        peers: the models.
        held: bytes that may be held; at least two models are.
    """

    def __init__(self, peers: Sequence[Peer], held: int) -> None:
        self._peers, self._limit = peers, held
        self._known: OrderedDict[int, End] = OrderedDict()

    def __getitem__(self, place: int) -> End:
        if place not in self._known:
            self.keep(place, self._peers[place].surface().unrestricted())
        self._known.move_to_end(place)
        return self._known[place]

    def keep(self, place: int, surface: LossSurface) -> None:
        """Hold what an open model is, in place of the one that was asked for the longest time ago."""
        self._known[place] = end = End.of(surface)
        while len(self._known) > max(self._limit // max(end.size, 1), 2):
            self._known.popitem(last=False)

    def pairs(self, places: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield all pairs of some models, in an order in which few of them are opened twice."""
        if len(places) < 2:
            return
        size = max(self._limit // max(self[places[0]].size, 1) // 2, 1)
        blocks = [places[start : start + size] for start in range(0, len(places), size)]
        for a, block in enumerate(blocks):
            for i, first in enumerate(block):
                yield from ((first, second) for second in block[i + 1 :])
            for other in blocks[a + 1 :]:
                yield from ((first, second) for first in block for second in other)
