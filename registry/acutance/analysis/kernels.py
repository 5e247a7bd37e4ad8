"""Compiled loops over pairs of models, for resampling.

All randomness comes in as arrays of indices made beforehand, so results do not depend on the number of
threads, and every definition and target sees the same resamples. Small tables are worked through by one thread:
waiting for the others costs more than they save.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import permutations
from types import FunctionType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from acutance.threads import kept_threads

Signs = NDArray[np.int8]
Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


# Pairs of models from which on threads pay: 10 ms of work for one, with 9999 resamples those of 45 models. Below, two
# idle cores save a few milliseconds a call; where something else runs, the threads spin waiting for one another (200
# taus of 24 models on 2 cores: 3.1 s of wall and 3.1 s of processor time with one thread, 2.2 and 3.3 with two; beside
# two other processes 4.2 and 2.9 with one, 5.5 to 19 and 4.4 to 12 with two).
SMALL = 10_000_000


class Kernel:
    """A loop over resamples, compiled for one thread and for all of them; each when it is first needed.

    Args:
        function: takes an array with one row a resample, then arrays of signs, the last two axes of which are pairs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self.serial = _compiled(function, parallel=False)
        self._parallel = _compiled(function, parallel=True)

    def __call__(self, rows: Ints, x: Signs, y: Signs, *others: Any) -> Any:
        """Return the same from either."""
        pairs = len(rows) * math.prod(x.shape[:-2]) * y.size // 2
        return (self.parallel if pairs > SMALL else self.serial)(rows, x, y, *others)

    @kept_threads()
    def parallel(self, *arguments: Any) -> Any:
        """Run on all threads."""
        return self._parallel(*arguments)


def _compiled(function: Callable[..., Any], parallel: bool) -> Callable[..., Any]:
    """Compile with the on-disk cache where there is a place for it, without where there is none."""
    assert isinstance(function, FunctionType)
    # The cache tells functions apart by their names, not by how they were compiled.
    name = f"{function.__name__}_{'parallel' if parallel else 'serial'}"
    named = FunctionType(function.__code__, function.__globals__, name)
    named.__qualname__ = name
    try:
        kernel: Callable[..., Any] = numba.njit(cache=True, parallel=parallel)(named)
    except RuntimeError:
        kernel = numba.njit(parallel=parallel)(named)
    return kernel


def signs(x: NDArray[np.float64]) -> Signs:
    """Return sign(x_i - x_j), (n, n); infinities of one sign are tied."""
    return (x[:, None] > x[None, :]).astype(np.int8) - (x[:, None] < x[None, :]).astype(np.int8)


def _helper(function: F) -> F:
    """Compile a part of the loops below, which keeps its types."""
    return cast(F, numba.njit(function))


def _count_ones(_: Any, word: Any) -> Any:
    """Type and code of the number of ones in a 64-bit word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), generate


_bits: Any = intrinsic(_count_ones)


@_helper
def _scores(x: Signs) -> NDArray[np.float32]:
    """Return numbers in the order that the signs give, (n, n) -> (n,): comparing numbers needs no look-up of pairs.

    A model that is above and below none has no value (or all are equal): NaN, as it is with a missing value.
    """
    n = len(x)
    scores = np.empty(n, np.float32)
    for i in range(n):
        score, ties = 0, 0
        for j in range(n):
            score += x[i, j]
            ties += x[i, j] == 0
        scores[i] = np.nan if ties == n else score
    return scores


@_helper
def _pack(values: NDArray[np.float32], greater: NDArray[np.uint64], untied: NDArray[np.uint64]) -> None:
    """Write which pairs i < j have values[i] > values[j], and which are not tied, as bits."""
    n, bit, at = len(values), np.uint64(0), 0
    above, differs = np.uint64(0), np.uint64(0)
    for i in range(n):
        for j in range(i + 1, n):
            more, less = np.uint64(values[i] > values[j]), np.uint64(values[i] < values[j])
            above |= more << bit
            differs |= (more | less) << bit
            bit += np.uint64(1)
            if bit == 64:
                greater[at], untied[at] = above, differs
                bit, above, differs = np.uint64(0), np.uint64(0), np.uint64(0)
                at += 1
    if bit > 0:
        greater[at], untied[at] = above, differs


@_helper
def _packed_sum(
    greater: NDArray[np.uint64], untied: NDArray[np.uint64], other: NDArray[np.uint64], others: NDArray[np.uint64]
) -> np.int64:
    """Return the sum of sign products of two packed columns: pairs that count, less twice those that disagree."""
    count, against = np.uint64(0), np.uint64(0)
    for w in range(len(greater)):
        both = untied[w] & others[w]
        count += _bits(both)
        against += _bits((greater[w] ^ other[w]) & both)
    return np.int64(count) - 2 * np.int64(against)


@_helper
def _columns(x: Signs, y: Signs) -> tuple[NDArray[np.float32], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return scores of the targets, (T, n), and pairs of the measures as bits, 64 a word, twice (D, words).

    An order is then packed once for a target and met by every measure.
    """
    n = x.shape[1]
    words = (n * (n - 1) // 2 + 63) // 64
    scores = np.zeros((len(x), n), np.float32)
    for t in range(len(x)):
        scores[t] = _scores(x[t])
    greater, untied = np.zeros((len(y), words), np.uint64), np.zeros((len(y), words), np.uint64)
    for d in range(len(y)):
        _pack(_scores(y[d]), greater[d], untied[d])
    return scores, greater, untied


@lru_cache(maxsize=32)
def bootstrap_counts(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Return how often each of n models occurs in each resample, (resamples, n)."""
    drawn = np.random.default_rng([seed, n, 1]).integers(n, size=(resamples, n))
    counts = np.zeros((resamples, n), np.int64)
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    return counts


def goes_through_all(n: int) -> bool:
    """Whether the orders of n models are few enough to be all gone through."""
    return n <= 8


def p_of_hits(hits: Any, count: int, exact: bool) -> Any:
    """Return the p-value of so many hits among orders: their share, or (1 + hits) / (1 + count) of random ones."""
    return hits / count if exact else (1 + hits) / (1 + count)


@lru_cache(maxsize=32)
def permuted_orders(n: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return permutations of n models, (count, n): all n! for n <= 8, else ``count`` random ones."""
    if goes_through_all(n):
        return np.array(list(permutations(range(n))), np.int64).reshape(math.factorial(n), n)
    orders = np.tile(np.arange(n), (count, 1))
    return np.random.default_rng([seed, n, 2]).permuted(orders, axis=1)


@Kernel
def pair_sums(counts: Ints, x: Signs, y: Signs) -> Ints:
    """Return, for each resample, sums over pairs of different models i < j with weight m_i m_j, (B, 4).

    The columns are sign products, pairs, pairs tied in x, pairs tied in y. A model drawn twice is not
    compared with itself.
    """
    resamples, n = counts.shape
    sums = np.zeros((resamples, 4), np.int64)
    for b in numba.prange(resamples):
        s = pairs = tied_x = tied_y = 0
        for i in range(n):
            if counts[b, i] == 0:
                continue
            for j in range(i + 1, n):
                m = counts[b, i] * counts[b, j]
                s += m * x[i, j] * y[i, j]
                pairs += m
                tied_x += m * (x[i, j] == 0)
                tied_y += m * (y[i, j] == 0)
        sums[b, 0], sums[b, 1], sums[b, 2], sums[b, 3] = s, pairs, tied_x, tied_y
    return sums


def weighted_pair_sums(counts: Ints, x: Signs, y: Signs) -> Ints:
    """Return ``pair_sums``; of large tables as m' A m / 2 by matrix products, which is ten times as fast.

    All sums are whole numbers that the floating-point type holds exactly, so the result is the same to the bit.
    """
    resamples, n = counts.shape
    if resamples * n * n // 2 <= SMALL:
        return cast(Ints, pair_sums(counts, x, y))
    exact = np.float32 if n < 4096 else np.float64
    m = counts.astype(exact)

    def total(matrix: Signs | NDArray[np.bool_]) -> Ints:
        if not matrix.any():
            return np.zeros(resamples, np.int64)
        return np.asarray(((m @ matrix.astype(exact)) * m).sum(1).astype(np.int64) // 2)

    different = ~np.eye(n, dtype=bool)
    pairs = (counts.sum(1) ** 2 - (counts**2).sum(1)) // 2
    return np.stack([total(x * y), pairs, total((x == 0) & different), total((y == 0) & different)], axis=1)


@Kernel
def permuted_sums(orders: Ints, x: Signs, y: Signs) -> Ints:
    """Return the sum of sign products for x in each order against y as it is, (B,)."""
    count, n = orders.shape
    sums = np.zeros(count, np.int64)
    scores = _scores(x)
    for b in numba.prange(count):
        moved = scores[orders[b]]
        s = np.int64(0)
        for i in range(n):
            row = np.int32(0)
            for j in range(i + 1, n):
                row += np.int32(np.int8(moved[i] > moved[j]) - np.int8(moved[i] < moved[j])) * np.int32(y[i, j])
            s += row
        sums[b] = s
    return sums


@Kernel
def largest_permuted(orders: Ints, x: Signs, y: Signs, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return, for each order, the largest \|S\| scale over all targets x, (T, n, n), and measures y, (D, n, n).

    Args:
        orders: (B, n) permutations, applied to all targets together.
        x: signs of the targets.
        y: signs of the measures.
        scale: (T, D) factors that make the sums comparable; 0 leaves a pair out.
    """
    scores, greater, untied = _columns(x, y)
    largest = np.zeros(len(orders))
    for b in numba.prange(len(orders)):
        top = 0.0
        moved, differs = np.empty(greater.shape[1], np.uint64), np.empty(greater.shape[1], np.uint64)
        for t in range(len(x)):
            _pack(scores[t][orders[b]], moved, differs)
            for d in range(len(y)):
                if scale[t, d] != 0.0:
                    s = _packed_sum(moved, differs, greater[d], untied[d])
                    top = max(top, abs(s) * scale[t, d])
        largest[b] = top
    return largest


@Kernel
def family_sums(orders: Ints, x: Signs, y: Signs) -> Ints:
    """Return ``permuted_sums`` of all targets x, (T, n, n), and measures y, (D, n, n), in each order, (B, T, D)."""
    scores, greater, untied = _columns(x, y)
    sums = np.zeros((len(orders), len(x), len(y)), np.int64)
    for b in numba.prange(len(orders)):
        moved, differs = np.empty(greater.shape[1], np.uint64), np.empty(greater.shape[1], np.uint64)
        for t in range(len(x)):
            _pack(scores[t][orders[b]], moved, differs)
            for d in range(len(y)):
                sums[b, t, d] = _packed_sum(moved, differs, greater[d], untied[d])
    return sums


def _sign_products(values: NDArray[np.float64], y: Signs) -> Ints:
    """Return, for each row of values, (B, n), the sums of its pair signs times those of each of y, (K, n, n).

    The last column, of K + 1, counts the pairs of the row that are not tied.
    """
    sums = np.zeros((len(values), len(y) + 1), np.int64)
    n = values.shape[1]
    for b in range(len(values)):
        row = values[b]
        for i in range(n):
            for j in range(i + 1, n):
                if row[i] > row[j]:
                    for k in range(len(y)):
                        sums[b, k] += y[k, i, j]
                elif row[i] < row[j]:
                    for k in range(len(y)):
                        sums[b, k] -= y[k, i, j]
                else:
                    continue
                sums[b, len(y)] += 1
    return sums


sign_products = _compiled(_sign_products, parallel=False)
