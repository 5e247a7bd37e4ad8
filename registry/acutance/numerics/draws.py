"""Counter-based noise: draw k of a named stream is always the same numbers.

A stream is named by what the noise is *for* (study seed, data, batch, measure, stream, replicate), never by
the model, the radius, the scaling or the number of draws. So all models and all radii see the same unit
noise (common random numbers), more draws extend a sample, and the order of evaluation does not matter.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor


class Streams:
    """A family of noise streams.

    Args:
        context: values that name the family; their ``repr`` must be stable (numbers and strings).
    """

    def __init__(self, *context: Any) -> None:
        self.context = tuple(context)

    def child(self, *context: Any) -> Streams:
        """Return a family named by more context."""
        return Streams(*self.context, *context)

    def generator(self, stream: str, k: int) -> torch.Generator:
        """Return the generator of draw k, on the CPU."""
        name = "\x1f".join(repr(part) for part in (*self.context, stream, k))
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(seed)

    def normal(self, stream: str, k: int, like: Tensor) -> Tensor:
        """Return draw k of standard Gaussian noise, shaped as ``like``.

        The numbers are made in float32 on the CPU and then cast, so that float64, float32 and every device
        see the same ones.
        """
        noise = torch.randn(like.shape, generator=self.generator(stream, k), dtype=torch.float32)
        return noise.to(device=like.device, dtype=like.dtype)

    def uniform(self, stream: str, k: int, like: Tensor) -> Tensor:
        """Return draw k of uniform noise on [-1, 1], shaped as ``like``."""
        noise = torch.rand(like.shape, generator=self.generator(stream, k), dtype=torch.float32)
        return noise.mul_(2).sub_(1).to(device=like.device, dtype=like.dtype)

    def subset(self, stream: str, k: int, size: int, total: int) -> Tensor:
        """Return draw k of a random subset of range(total), (size,), in increasing order."""
        return torch.randperm(total, generator=self.generator(stream, k))[:size].sort().values

    def number(self, stream: str, k: int) -> float:
        """Return draw k of one uniform number on [0, 1)."""
        return float(torch.rand((), generator=self.generator(stream, k), dtype=torch.float64))
