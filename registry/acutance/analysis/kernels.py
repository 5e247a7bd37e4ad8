"""Compiled counting of pairs of models in n log n, for resampling.

A sum of sign products over pairs is counted by walking through the models in the order of one column and asking how
many of those already met are lower, and higher, in the other (Knight 1966). A resample is a vector of multiplicities,
so neither column is sorted again; sixteen resamples are counted side by side. All randomness comes in as arrays made
beforehand, so results do not depend on the number of threads. Small tables are worked through by one thread: waiting
for the others costs more than they save.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from acutance.analysis.ranked import Family, Ranked
from acutance.analysis.resampling import Counts, Orders

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

# Steps (a model of a pair of columns in a resample) from which on threads pay: 15 ms of work for one.
SMALL = 1_500_000
PACKED = 256  # models up to which all pairs as bits, 64 a word, are quicker than n log n
LANES = 16  # resamples side by side
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Kernel:
    """A loop over resamples, compiled when it is first needed, and shared out among plain threads when it is long.

    Threads of numba's own would wait for one another spinning, and share their number with torch.

    Args:
        function: takes an array with one row a resample, then others; returns an array with a row for each.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        try:
            # The on-disk cache where there is a place for it.
            self.serial: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
        except RuntimeError:
            self.serial = numba.njit(nogil=True)(function)

    def __call__(self, steps: int, rows: Any, *others: Any, threads: int | None = None) -> Any:
        """Return the same from any number of threads; ``steps`` says how much there is to do."""
        wanted = threads or (THREADS if steps > SMALL else 1)
        if min(wanted, len(rows)) < 2:
            return self.serial(rows, *others)
        # A few more pieces than threads, so that none waits long for the last; whole lanes each.
        size = LANES * max(1, -(-len(rows) // (4 * wanted * LANES)))
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        with ThreadPoolExecutor(wanted) as pool:
            return np.concatenate(list(pool.map(lambda part: self.serial(part, *others), parts)))


def _helper(function: F) -> F:
    """Compile a part of the loops below, which keeps its types."""
    return cast(F, numba.njit(function))


def _count_ones(_: Any, word: Any) -> Any:
    """Type and code of the number of ones in a 64-bit word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), generate


_bits: Any = intrinsic(_count_ones)


# -- resamples: multiplicities against two columns ----------------------------------------------------------------


@_helper
def _lanes(
    m: Floats, ends: Orders, codes: Orders, levels: int, tied: bool, sums: Floats, tree: Floats, total: Floats,
    near: Floats,
) -> None:  # fmt: skip
    """Write the sums of m_i m_j sign products of sixteen resamples side by side.

    Args:
        m: multiplicities in the order of x, (n, LANES).
        ends: for each model in that order the end of those tied with it in x.
        codes: their levels of y, from 1.
        levels: how many there are.
        tied: whether models are tied in y.
        sums: written, (LANES,).
        tree: of prefix sums (Fenwick 1994), (levels + 1, LANES); overwritten.
        total: overwritten, (LANES,).
        near: overwritten, (LANES,).
    """
    tree[:], total[:], sums[:] = 0, 0, 0
    start = 0
    while start < len(codes):
        end = ends[start]
        for i in range(start, end):
            near[:] = 0
            j = codes[i]
            while j > 0:
                for lane in range(LANES):
                    near[lane] += tree[j, lane]
                j &= j - 1
            if tied:
                j = codes[i] - 1
                while j > 0:
                    for lane in range(LANES):
                        near[lane] += tree[j, lane]
                    j &= j - 1
            else:
                for lane in range(LANES):
                    near[lane] *= 2.0
            # Lower ones less higher ones: (lower) - (all - (lower or equal)).
            for lane in range(LANES):
                sums[lane] += m[i, lane] * (near[lane] - total[lane])
        for i in range(start, end):
            for lane in range(LANES):
                total[lane] += m[i, lane]
            j = codes[i]
            while j <= levels:
                for lane in range(LANES):
                    tree[j, lane] += m[i, lane]
                j += j & -j
        start = end


@Kernel
def _weighted(counts: Counts, order: Orders, ends: Orders, codes: Orders, levels: int, tied: bool) -> Ints:
    """Return the sum of m_i m_j sign products of each resample, (B,)."""
    resamples, n = counts.shape
    found = np.zeros(resamples, np.int64)
    for chunk in range((resamples + LANES - 1) // LANES):
        # Whole numbers far below 2^53: exact.
        m, sums = np.zeros((n, LANES)), np.zeros(LANES)
        tree, total, near = np.zeros((levels + 1, LANES)), np.zeros(LANES), np.zeros(LANES)
        first = chunk * LANES
        there = min(LANES, resamples - first)
        for lane in range(there):
            for i in range(n):
                m[i, lane] = counts[first + lane, order[i]]
        _lanes(m, ends, codes, levels, tied, sums, tree, total, near)
        for lane in range(there):
            found[first + lane] = np.int64(sums[lane])
    return found


@Kernel
def _tied(counts: Counts, order: Orders, ends: Orders) -> Ints:
    """Return the sum of m_i m_j over pairs tied in a column, of each resample, (B,)."""
    resamples, n = counts.shape
    found = np.zeros(resamples, np.int64)
    for b in range(resamples):
        start, twice = 0, np.int64(0)
        while start < n:
            end, together, squares = ends[start], np.int64(0), np.int64(0)
            for i in range(start, end):
                m = np.int64(counts[b, order[i]])
                together += m
                squares += m * m
            twice += together * together - squares
            start = end
        found[b] = twice // 2
    return found


def pair_sums(counts: Counts, x: Ranked, y: Ranked) -> Ints:
    """Return, for each resample, sums over pairs of different models i < j with weight m_i m_j, (B, 4).

    The columns are sign products, pairs, pairs tied in x, pairs tied in y. A model drawn twice is not
    compared with itself.

    Args:
        counts: how often each model occurs, (B, n).
        x: a column without missing values, (n,).
        y: another one.
    """
    steps = counts.size
    m = counts.sum(1, dtype=np.int64)
    squares = np.einsum("bi,bi->b", counts, counts, dtype=np.int64)
    sums = [_weighted(steps, counts, x.order, x.ends, y.codes[x.order], y.levels, y.tied), (m**2 - squares) // 2]
    sums += [_tied(steps, counts, c.order, c.ends) if c.tied else np.zeros_like(m) for c in (x, y)]
    return np.stack(sums, axis=1)


def plain_sums(x: Ranked, y: Ranked) -> Ints:
    """Return ``pair_sums`` of the models as they are, (4,)."""
    return cast(Ints, pair_sums(np.ones((1, len(x.codes)), np.uint8), x, y)[0])


@Kernel
def _agreements(counts: Counts, order: Orders, ends: Orders, codes: Orders, levels: int) -> Ints:
    """Return for each resample and model the sum of m_j sign products over the others, (B, n)."""
    resamples, n = counts.shape
    found = np.zeros((resamples, n), np.int64)
    for b in range(resamples):
        tree = np.zeros(levels + 1, np.int64)
        total, start = np.int64(0), 0
        while start < n:
            end = ends[start]
            for i in range(start, end):
                found[b, order[i]] += _near(tree, codes[i]) - total
            for i in range(start, end):
                m = np.int64(counts[b, order[i]])
                total += m
                _add(tree, codes[i], m)
            start = end
        # Each group leaves before it is asked about: those above it in x remain.
        start = 0
        while start < n:
            end = ends[start]
            for i in range(start, end):
                m = np.int64(counts[b, order[i]])
                total -= m
                _add(tree, codes[i], -m)
            for i in range(start, end):
                found[b, order[i]] -= _near(tree, codes[i]) - total
            start = end
    return found


@_helper
def _near(tree: Ints, code: int) -> np.int64:
    """Return those lower plus those lower or equal."""
    found = np.int64(0)
    j = code
    while j > 0:
        found += tree[j]
        j &= j - 1
    j = code - 1
    while j > 0:
        found += tree[j]
        j &= j - 1
    return found


@_helper
def _add(tree: Ints, code: int, m: np.int64) -> None:
    j = code
    while j < len(tree):
        tree[j] += m
        j += j & -j


def agreements(counts: Counts, x: Ranked, y: Ranked) -> Ints:
    """Return each model's agreement with the others, the sum of m_j sign products, in every resample, (B, n)."""
    return cast(Ints, _agreements(2 * counts.size, counts, x.order, x.ends, y.codes[x.order], y.levels))


def sums_without_each(x: Ranked, y: Ranked) -> Ints:
    """Return ``pair_sums`` without one model each, (n, 4): what is left of all pairs without those of the model."""
    n = len(x.codes)
    alone = np.stack(
        [agreements(np.ones((1, n), np.uint8), x, y)[0], np.full(n, n - 1), x.tied_with, y.tied_with], axis=1
    )
    left: Ints = plain_sums(x, y) - alone
    return left


# -- permutations: one column in other orders against others --------------------------------------------------------


@_helper
def _pack(values: NDArray[np.float32], greater: NDArray[np.uint64], untied: NDArray[np.uint64]) -> None:
    """Write which pairs i < j have values[i] > values[j], and which are not tied, as bits; NaN is tied with all."""
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


@Kernel
def _packed_family(orders: Orders, x: NDArray[np.float32], y: NDArray[np.float32]) -> Ints:
    """Return the sums of sign products of all targets x, (T, n), in each order with all measures y, (D, n)."""
    n = x.shape[1]
    words = (n * (n - 1) // 2 + 63) // 64
    greater, untied = np.zeros((len(y), words), np.uint64), np.zeros((len(y), words), np.uint64)
    for d in range(len(y)):
        _pack(y[d], greater[d], untied[d])
    sums = np.zeros((len(orders), len(x), len(y)), np.int64)
    for b in range(len(orders)):
        moved, differs = np.empty(words, np.uint64), np.empty(words, np.uint64)
        for t in range(len(x)):
            _pack(x[t][orders[b]], moved, differs)
            for d in range(len(y)):
                sums[b, t, d] = _packed_sum(moved, differs, greater[d], untied[d])
    return sums


@_helper
def _below(
    place: int, words: NDArray[np.uint64], inner: NDArray[np.int16], outer: NDArray[np.int32], top: NDArray[np.int32]
) -> np.int64:
    """Return how many places below this one are taken."""
    w = place >> 6
    below = (np.uint64(1) << np.uint64(place & 63)) - np.uint64(1)
    b = w >> 4
    return np.int64(top[b >> 4] + outer[b >> 4, b & 15] + inner[b, w & 15]) + np.int64(_bits(words[w] & below))


@_helper
def _take(
    place: int, words: NDArray[np.uint64], inner: NDArray[np.int16], outer: NDArray[np.int32], top: NDArray[np.int32]
) -> None:
    """Take a place: a bit, and the counts before each word, each sixteen and each 256 of them."""
    w = place >> 6
    words[w] |= np.uint64(1) << np.uint64(place & 63)
    b = w >> 4
    at, row = w & 15, inner[b]
    for k in range(16):
        row[k] += np.int16(k > at)
    up = b >> 4
    at, line = b & 15, outer[up]
    for k in range(16):
        line[k] += np.int32(k > at)
    for k in range(up + 1, len(top)):
        top[k] += 1


@_helper
def _walk(
    low: Orders, high: Orders, place: Orders, walk: Orders, ends: Orders, tied: bool, words: NDArray[np.uint64],
    inner: NDArray[np.int16], outer: NDArray[np.int32], top: NDArray[np.int32],
) -> np.int64:  # fmt: skip
    """Return the sum of sign products of a column, given by places, with one given by the order of its models."""
    words[:], inner[:], outer[:], top[:] = np.uint64(0), np.int16(0), np.int32(0), np.int32(0)
    found, count, start = np.int64(0), 0, 0
    while start < len(walk):
        end = ends[start]
        for k in range(start, end):
            i = walk[k]
            if place[i] >= 0:
                less = _below(low[i], words, inner, outer, top)
                upto = _below(high[i], words, inner, outer, top) if tied else less
                found += less + upto - count
        for k in range(start, end):
            i = walk[k]
            if place[i] >= 0:
                _take(place[i], words, inner, outer, top)
                count += 1
        start = end
    return found


@Kernel
def _walked_family(
    orders: Orders, low: Orders, high: Orders, place: Orders, tied: NDArray[np.bool_], walks: Orders, ends: Orders,
    lengths: Ints,
) -> Ints:  # fmt: skip
    """Return what ``_packed_family`` does, in n log n: x by places, (T, n), y by the order of its models, (D, n)."""
    n = orders.shape[1]
    size = n // 64 + 1
    blocks = (size + 15) // 16
    sums = np.zeros((len(orders), len(low), len(walks)), np.int64)
    for b in range(len(orders)):
        words, inner = np.zeros(size, np.uint64), np.zeros((blocks, 16), np.int16)
        outer, top = np.zeros(((blocks + 15) // 16, 16), np.int32), np.zeros((blocks + 15) // 16, np.int32)
        for t in range(len(low)):
            moved, upper, lower = place[t][orders[b]], high[t][orders[b]], low[t][orders[b]]
            for d in range(len(walks)):
                m = lengths[d]
                sums[b, t, d] = _walk(lower, upper, moved, walks[d, :m], ends[d, :m], tied[t], words, inner, outer, top)
    return sums


def family_sums(orders: Orders, x: Family, y: Family) -> Ints:
    """Return the sum of sign products of each target x in each order with each measure y as it is, (B, T, D).

    A model without a value of either is in no pair.

    Args:
        orders: permutations of the models, (B, n), applied to all targets together.
        x: T columns over n models, NaN where missing.
        y: D columns.
    """
    steps = orders.size * len(x) * len(y)
    if not len(x) or not len(y):
        return np.zeros((len(orders), len(x), len(y)), np.int64)
    if orders.shape[1] <= PACKED:
        return cast(Ints, _packed_family(steps, orders, x.scores, y.scores))
    return cast(Ints, _walked_family(steps, orders, x.low, x.high, x.places, x.tied, y.walks, y.ends, y.lengths))


def permuted_sums(orders: Orders, x: Family, y: Family) -> Ints:
    """Return ``family_sums`` of one column with one, (B,)."""
    found: Ints = family_sums(orders, x, y)[:, 0, 0]
    return found
