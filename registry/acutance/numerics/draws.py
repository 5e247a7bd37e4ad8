"""Counter-based noise: draw k of a named stream is always the same numbers.

A stream is named by what the noise is *for* (study seed, data, batch, measure, stream, replicate), never by
the model, the radius, the scaling or the number of draws. So all models and all radii see the same unit
noise (common random numbers), more draws extend a sample, and the order of evaluation does not matter.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Kind = Literal["normal", "uniform", "signs"]

# The eight bits of every byte, as signs: (256, 8).
_SIGNS = ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(torch.int8) * 2 - 1


BLOCK = 1 << 18  # numbers of a draw that are made at once where the whole is held nowhere; a multiple of 64
GROUP = 16  # torch makes that many Gaussian numbers together, and another way where there are fewer
AHEAD = 4  # draws made while one is used, each by a thread and in memory of its own


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
        return torch.Generator().manual_seed(self.seed(stream, k))

    def seed(self, stream: str, k: int) -> int:
        """Return the seed of draw k, 63 bits."""
        name = "\x1f".join(repr(part) for part in (*self.context, stream, k))
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1

    def normal(self, stream: str, k: int, like: Tensor, out: Tensor | None = None) -> Tensor:
        """Return draw k of standard Gaussian noise, shaped as ``like``, in ``out`` or new memory.

        The numbers are made in float32 on the CPU and then cast, so that float64, float32 and every device
        see the same ones.
        """
        return _filled(like, out, lambda memory: _made("normal", memory, self.generator(stream, k)))

    def uniform(self, stream: str, k: int, like: Tensor, out: Tensor | None = None) -> Tensor:
        """Return draw k of uniform noise on [-1, 1], shaped as ``like``, in ``out`` or new memory."""
        return _filled(like, out, lambda memory: _made("uniform", memory, self.generator(stream, k)))

    def signs(self, stream: str, k: int, like: Tensor, out: Tensor | None = None) -> Tensor:
        """Return draw k of random signs (Rademacher noise), shaped as ``like``, in ``out`` or new memory.

        Sixty-four of them come of one random integer: that is faster than Gaussian noise.
        """
        return _filled(like, out, lambda memory: _made("signs", memory, self.generator(stream, k)))

    def draws(
        self, kind: Kind, stream: str, ks: Iterable[int], like: Tensor, out: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield draws ks, each shaped as ``like``, in ``out`` (each overwritten by the next) or new memory.

        For another device the CPU makes the next few meanwhile: the numbers are made there, and it would wait for them.
        """
        draw = getattr(self, kind)
        if like.device.type == "cpu":
            return (draw(stream, k, like, out) for k in ks)
        blank = torch.empty(like.shape, dtype=torch.float32, device="cpu")
        made = ahead((partial(draw, stream, k, blank) for k in ks), AHEAD)
        return ((torch.empty_like(like) if out is None else out).copy_(noise, non_blocking=True) for noise in made)

    def noise(self, kind: Kind, stream: str, k: int, size: int) -> Noise:
        """Return draw k, of so many numbers, as noise that is made piece by piece when it is walked over."""
        return Noise(self, kind, stream, k, size)

    def subset(self, stream: str, k: int, size: int, total: int) -> Tensor:
        """Return draw k of a random subset of range(total), (size,), in increasing order."""
        return torch.randperm(total, generator=self.generator(stream, k))[:size].sort().values

    def number(self, stream: str, k: int) -> float:
        """Return draw k of one uniform number on [0, 1)."""
        return float(torch.rand((), generator=self.generator(stream, k), dtype=torch.float64))


@dataclass(frozen=True)
class Noise:
    """Draw k of a stream, which is held nowhere: the numbers that ``Streams`` makes of it as a whole, block by block.

    Attributes:
        streams: the family.
        kind: of noise.
        stream: name.
        k: of the draw.
        size: how many numbers.
    """

    streams: Streams
    kind: Kind
    stream: str
    k: int
    size: int

    def blocks(self) -> Iterator[Tensor]:
        """Yield the numbers in order, float32 on the CPU, in memory that the next ones are written over."""
        generator = self.streams.generator(self.stream, self.k)
        memory = torch.empty(min(self.size, BLOCK + GROUP), dtype=torch.float32)
        start = 0
        while start < self.size:
            rest = self.size - start
            count = rest if rest < BLOCK + GROUP else BLOCK
            yield _made(self.kind, memory[:count], generator)
            start += count


def _made(kind: Kind, memory: Tensor, generator: torch.Generator) -> Tensor:
    """Fill memory, float32 on the CPU, with the next numbers of a generator."""
    if kind == "normal":
        return memory.normal_(generator=generator)
    if kind == "uniform":
        return memory.uniform_(-1, 1, generator=generator)
    words = torch.empty((memory.numel() + 63) // 64, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    table = _SIGNS.to(memory.dtype)
    return memory.copy_(table[words.view(torch.uint8).int()].view(-1)[: memory.numel()].view(memory.shape))


def ahead(work: Iterable[Callable[[], T]], count: int) -> Iterator[T]:
    """Yield what each of some functions returns, in order; so many threads call the next ones meanwhile."""
    with ThreadPoolExecutor(count, thread_name_prefix="acutance-draws") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for each in work:
                waiting.append(pool.submit(each))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _filled(like: Tensor, out: Tensor | None, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Fill float32 memory on the CPU, that of ``out`` when it can be, and cast."""
    if out is None:
        out = torch.empty_like(like)
    if out.device.type == "cpu" and out.dtype == torch.float32:
        return fill(out)
    # CUDA has read pageable memory when the call returns, so the host need not wait for the device.
    return out.copy_(fill(torch.empty(like.shape, dtype=torch.float32)), non_blocking=True)
