"""Compiled counting of pairs of models for permutations: one column in other orders against others.

Few models have all their pairs as bits, 64 to a word. Many are put in the order of the measure, and the inversions of
the target's ranks counted in n log n by their digits of six bits, the highest first (a radix sort that counts): pairs
that differ in a digit are counted there, by vector additions, and pairs that agree in it go on to the next.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from acutance.analysis.machinery.kernels import Ints, Kernel, bits, helper
from acutance.analysis.machinery.ranked import Family
from acutance.analysis.machinery.resampling import Orders

PACKED = 256  # models up to which all pairs as bits are quicker than n log n
TOGETHER = 16  # orders that go through packed measures together
DIGIT = 6  # bits of a rank that are looked at together
PARTS = 1 << DIGIT
FEW = 32


@helper
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


@helper
def _packed_sum(
    greater: NDArray[np.uint64], untied: NDArray[np.uint64], other: NDArray[np.uint64], others: NDArray[np.uint64]
) -> np.int64:
    """Return the sum of sign products of two packed columns: pairs that count, less twice those that disagree."""
    count, against = np.uint64(0), np.uint64(0)
    for w in range(len(greater)):
        both = untied[w] & others[w]
        count += bits(both)
        against += bits((greater[w] ^ other[w]) & both)
    return np.int64(count) - 2 * np.int64(against)


@Kernel
def _packed(columns: NDArray[np.float32], words: int) -> NDArray[np.uint64]:
    """Return the bits of ``_pack`` of each column, (k, n) -> (k, 2, words)."""
    packed = np.zeros((len(columns), 2, words), np.uint64)
    for k in range(len(columns)):
        _pack(columns[k], packed[k, 0], packed[k, 1])
    return packed


@Kernel
def _packed_family(orders: Orders, x: NDArray[np.float32], y: NDArray[np.uint64]) -> Ints:
    """Return the sums of sign products of all targets x, (T, n), in each order with all packed measures y, (D, 2, w).

    A few orders go through the measures together: each is read once for all of them.
    """
    sums = np.zeros((len(orders), len(x), len(y)), np.int64)
    moved = np.zeros((TOGETHER, len(x), 2, y.shape[2]), np.uint64)
    for first in range(0, len(orders), TOGETHER):
        there = min(TOGETHER, len(orders) - first)
        for b in range(there):
            for t in range(len(x)):
                _pack(x[t][orders[first + b]], moved[b, t, 0], moved[b, t, 1])
        for d in range(len(y)):
            for b in range(there):
                for t in range(len(x)):
                    sums[first + b, t, d] = _packed_sum(moved[b, t, 0], moved[b, t, 1], y[d, 0], y[d, 1])
    return sums


@helper
def _spread(
    source: Orders, start: int, stop: int, first: int, shift: int, begins: Orders, after: NDArray[Any],
    above: NDArray[Any], to: Orders, at: Orders,
) -> np.int64:  # fmt: skip
    """Return the inversions between 64 parts of a range of ranks, and put its members into them, in their order.

    Args:
        source: ranks.
        start: where the range begins.
        stop: where it ends.
        first: the smallest rank that may be in it.
        shift: bits of a rank that do not say of which part it is.
        begins: where the part stands that begins at each rank, (n + 1,).
        after: for each part ones at those below, (64, 64).
        above: members met above each part; overwritten, (64,).
        to: written.
        at: written: where each part ends, (64,).
    """
    inversions = np.int64(0)
    above[:] = 0
    for part in range(PARTS):
        at[part] = begins[min(first + (part << shift), len(begins) - 1)]
    for i in range(start, stop):
        rank = source[i]
        part_of = np.uint32(rank - first) >> np.uint32(shift)
        inversions += np.int64(above[part_of])
        for k in range(PARTS):
            above[k] += after[part_of, k]
        to[np.uint32(at[part_of])] = rank
        at[part_of] += 1
    return inversions


@helper
def _inversions_of_few(source: Orders, start: int, stop: int, first: int) -> np.int64:
    """Return the inversions among different ranks of which none is 64 above the first."""
    inversions, met = np.int64(0), np.uint64(0)
    for i in range(start, stop):
        bit = np.uint64(source[i] - first)
        inversions += np.int64(bits(met >> bit))
        met |= np.uint64(1) << bit
    return inversions


@helper
def _inversions(
    source: Orders, count: int, to: Orders, begins: Orders, tied: bool, after: NDArray[Any], above: NDArray[Any],
    ends: Orders, next_ends: Orders,
) -> np.int64:  # fmt: skip
    """Return how many pairs of a sequence of ranks have the larger one first; equal ones are none.

    Args:
        source: ranks from 0, of tied ones that of the first; overwritten.
        count: how many they are.
        to: overwritten.
        begins: as for ``_spread``.
        tied: whether some are equal.
        after: as for ``_spread``.
        above: overwritten, (64,).
        ends: where the parts of a digit end; overwritten.
        next_ends: of the next digit; overwritten.
    """
    n = len(begins) - 1
    inversions, shift = np.int64(0), 0
    while n > 1 << (shift + DIGIT):
        shift += DIGIT
    ends[0] = count
    while True:
        size = 1 << (shift + DIGIT)
        for which in range((n + size - 1) // size):
            first = which * size
            start, stop = begins[first], ends[which]
            at = next_ends[which * PARTS : (which + 1) * PARTS] if shift > 0 else next_ends[:PARTS]
            if shift == 0 and not tied:
                inversions += _inversions_of_few(source, start, stop, first)
            elif start < stop:
                inversions += _spread(source, start, stop, first, shift, begins, after, above, to, at)
            else:
                at[:] = 0  # empty, and so are its parts
        if shift == 0:
            return inversions
        source, to = to, source
        ends, next_ends = next_ends, ends
        shift -= DIGIT


@helper
def _sort(ranks: Orders) -> None:
    """Sort in place; few as a hand of cards."""
    if len(ranks) > FEW:
        ranks.sort()
        return
    for k in range(1, len(ranks)):
        rank, j = ranks[k], k
        while j > 0 and ranks[j - 1] > rank:
            ranks[j] = ranks[j - 1]
            j -= 1
        ranks[j] = rank


@helper
def _gather(moved: Orders, walk: Orders, ends: Orders, gathered: Orders) -> tuple[int, np.int64, np.int64]:
    """Write ranks in the order of a measure, those that it ties from the lowest, so that they are no inversions.

    Returns:
        How many models have both, pairs that the measure ties, and of these the pairs that are tied in both.
    """
    count, start, tied, both = 0, 0, np.int64(0), np.int64(0)
    while start < len(walk):
        first = count
        for k in range(start, ends[start]):
            rank = moved[walk[k]]
            if rank >= 0:
                gathered[count] = rank
                count += 1
        if count - first > 1:
            _sort(gathered[first:count])
            tied += np.int64(count - first) * (count - first - 1) // 2
            same = 0
            for k in range(first + 1, count):
                same = same + 1 if gathered[k] == gathered[k - 1] else 0
                both += same
        start = ends[start]
    return count, tied, both


@helper
def _tied_pairs(ranks: Orders, count: int, met: Orders) -> np.int64:
    """Return the pairs of equal ranks."""
    pairs = np.int64(0)
    met[:] = 0
    for k in range(count):
        pairs += met[ranks[k]]
        met[ranks[k]] += 1
    return pairs


@Kernel
def _walked_family(
    orders: Orders, ranks: Orders, begins: Orders, tied: NDArray[np.bool_], walks: Orders, ends: Orders, lengths: Ints,
    pairs: Ints, present: Ints, after: NDArray[Any],
) -> Ints:  # fmt: skip
    """Return what ``_packed_family`` does, in n log n: x by ranks, (T, n), y by the order of its models, (D, n)."""
    n = orders.shape[1]
    sums = np.zeros((len(orders), len(ranks), len(walks)), np.int64)
    moved, one, two, met = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    above = np.zeros_like(after[0])
    parts, more = np.zeros(2 * PARTS + n // PARTS, np.int32), np.zeros(2 * PARTS + n // PARTS, np.int32)
    for b in range(len(orders)):
        for t in range(len(ranks)):
            for i in range(n):
                moved[i] = ranks[t, orders[b, i]]
            for d in range(len(walks)):
                m = lengths[d]
                count, alike, both = _gather(moved, walks[d, :m], ends[d, :m], one)
                if tied[t]:
                    alike += (pairs[t] if count == present[t] else _tied_pairs(one, count, met)) - both
                against = _inversions(one, count, two, begins[t], tied[t], after, above, parts, more)
                sums[b, t, d] = np.int64(count) * (count - 1) // 2 - alike - 2 * against
    return sums


@lru_cache(maxsize=1)
def _bits_of(family: Family) -> NDArray[np.uint64]:
    """Return all pairs of each column as bits, (k, 2, words); kept for the next orders."""
    k, n = family.scores.shape
    words = (n * (n - 1) // 2 + 63) // 64
    packed: NDArray[np.uint64] = _packed(64 * k * words, family.scores, words)
    return packed


def _after(n: int) -> NDArray[Any]:
    """Return for each part ones at those below, in numbers that hold n."""
    return np.tri(PARTS, PARTS, -1, np.uint16 if n < 2**16 else np.int32)


def family_sums(orders: Orders, x: Family, y: Family) -> Ints:
    """Return the sum of sign products of each target x in each order with each measure y as it is, (B, T, D).

    A model without a value of either is in no pair.

    Args:
        orders: permutations of the models, (B, n), applied to all targets together.
        x: T columns over n models, NaN where missing.
        y: D columns.
    """
    n, steps = orders.shape[1], orders.size * len(x) * len(y)
    if not len(x) or not len(y):
        return np.zeros((len(orders), len(x), len(y)), np.int64)
    if n <= PACKED:
        return cast(Ints, _packed_family(steps, orders, x.scores, _bits_of(y)))
    columns = x.ranks, x.begins, x.tied, y.walks, y.ends, y.lengths, x.tied_pairs, x.lengths
    return cast(Ints, _walked_family(8 * steps, orders, *columns, _after(n)))


def permuted_sums(orders: Orders, x: Family, y: Family) -> Ints:
    """Return ``family_sums`` of one column with one, (B,)."""
    sums: Ints = family_sums(orders, x, y)[:, 0, 0]
    return sums
