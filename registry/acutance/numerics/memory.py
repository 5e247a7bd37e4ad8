"""Memory for vectors that are made anew in every evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acutance.numerics.units import large

if TYPE_CHECKING:
    from torch import Tensor

LINE = 64  # bytes of a line of the cache, at which torch lets its own memory begin


def empty_like(vector: Tensor) -> Tensor:
    """Return uninitialised memory as ``torch.empty_like`` does, of many numbers on the CPU in large pages if there are.

    What was freed is often given back to the system, which then clears one small page after the other when it is
    written to: several per cent of a search. Numpy asks the system for large ones.
    """
    if not (large(vector) and vector.is_cpu and vector.is_contiguous()):
        return torch.empty_like(vector)
    import numpy as np

    size = vector.element_size()
    bytes_ = np.empty(vector.numel() * size + LINE, dtype=np.uint8)
    start = -bytes_.ctypes.data % LINE
    return torch.from_numpy(bytes_[start : start + vector.numel() * size]).view(vector.dtype).view(vector.shape)
