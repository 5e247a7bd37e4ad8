"""The weights of models that are compared, as ends of segments between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from acutance.surface import LossSurface

T = TypeVar("T", Tensor, float)


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
