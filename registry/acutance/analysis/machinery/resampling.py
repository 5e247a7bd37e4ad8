"""Which models a resample draws and in which order a permutation puts them: arrays that a seed names.

A stream is the same whether it is taken at once or in pieces, and fewer rows of it are the first of many, so results
depend neither on the memory there is nor on what else was asked for.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint8]
Orders = NDArray[np.int32]

BLOCK = 4_000_000  # numbers made at a time
KEPT = 300_000_000  # bytes of streams that are kept for the next pair of columns


class _Kept:
    """The streams used last, as long as they are small enough together."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, int, int], NDArray[Any]] = OrderedDict()

    def get(self, kind: str, n: int, seed: int, rows: int, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return so many rows of a stream; those of a longer one are its first."""
        key = (kind, n, seed)
        stream = self._found.pop(key, None)
        if stream is None or len(stream) < rows:
            stream = make()
            stream.setflags(write=False)
        if stream.nbytes <= KEPT:
            self._found[key] = stream
            while sum(cached.nbytes for cached in self._found.values()) > KEPT:
                self._found.popitem(last=False)
        return stream[:rows]


_kept = _Kept()


def pieces(rows: int, n: int) -> Iterator[int]:
    """Yield numbers of rows of n that are made at a time."""
    size = max(1, BLOCK // max(n, 1))
    for start in range(0, rows, size):
        yield min(size, rows - start)


def tally(drawn: NDArray[np.int64], n: int) -> Counts:
    """Return how often each of n models occurs in each row, (B, n). No model is drawn 256 times."""
    rows = len(drawn)
    at = drawn + (n * np.arange(rows))[:, None]
    return np.bincount(at.reshape(-1), minlength=rows * n).reshape(rows, n).astype(np.uint8)


def bootstrap_counts(n: int, resamples: int, seed: int) -> Counts:
    """Return how often each of n models occurs in each resample, (resamples, n)."""

    def make() -> Counts:
        g = np.random.default_rng([seed, n, 1])
        counts = np.empty((resamples, n), np.uint8)
        at = 0
        for rows in pieces(resamples, n):
            counts[at : at + rows] = tally(g.integers(n, size=(rows, n)), n)
            at += rows
        return counts

    return _kept.get("bootstrap", n, seed, resamples, make)


def goes_through_all(n: int) -> bool:
    """Whether the orders of n models are few enough to be all gone through."""
    return n <= 8


def p_of_hits(hits: Any, count: int, exact: bool) -> Any:
    """Return the p-value of so many hits among orders: their share, or (1 + hits) / (1 + count) of random ones."""
    return hits / count if exact else (1 + hits) / (1 + count)


def orders_of(n: int, count: int) -> int:
    """Return how many orders ``permuted_orders`` gives: all n! for n <= 8, else ``count`` random ones."""
    return math.factorial(n) if goes_through_all(n) else count


def order_blocks(n: int, count: int, seed: int) -> Iterator[Orders]:
    """Yield ``permuted_orders`` in pieces that fit into memory."""
    if goes_through_all(n):
        yield _all_orders(n)
        return
    if 4 * n * count <= KEPT // 4:
        yield _kept.get("orders", n, seed, count, lambda: np.concatenate(list(_random_orders(n, count, seed))))
        return
    yield from _random_orders(n, count, seed)


@cache
def _all_orders(n: int) -> Orders:
    return np.array(list(permutations(range(n))), np.int32).reshape(math.factorial(n), n)


def _random_orders(n: int, count: int, seed: int) -> Iterator[Orders]:
    g = np.random.default_rng([seed, n, 2])
    plain = np.arange(n, dtype=np.int32)
    if not count:
        yield np.empty((0, n), np.int32)
    for rows in pieces(count, n):
        yield g.permuted(np.tile(plain, (rows, 1)), axis=1)


def permuted_orders(n: int, count: int, seed: int) -> Orders:
    """Return permutations of n models, (count, n): all n! for n <= 8, else ``count`` random ones."""
    return np.concatenate(list(order_blocks(n, count, seed)))
