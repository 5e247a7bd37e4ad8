"""Compiled counting of pairs of models in n log n, for resampling.

A sum of sign products over pairs is counted by walking through the models in the order of one column and asking how
many of those already met are lower, and higher, in the other (Knight 1966). A resample is a vector of multiplicities,
so neither column is sorted again; 64 resamples are counted side by side. All randomness comes in as arrays made
beforehand, so results do not depend on the number of threads. Small tables are worked through by one thread: waiting
for the others costs more than they save.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from acutance.analysis.machinery.ranked import Ranked
from acutance.analysis.machinery.resampling import KEPT, Counts, Orders

Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

# Steps (a model of a pair of columns in a resample) from which on threads pay: 5 ms of work for one at least.
SMALL = 5_000_000
LANES = 64  # resamples side by side: compilers make vectors of loops that long, and unroll shorter ones
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
        # A few more pieces than threads, so that none waits long for the last.
        size = max(1, -(-len(rows) // (4 * wanted)))
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        with ThreadPoolExecutor(wanted) as pool:
            return np.concatenate(list(pool.map(lambda part: self.serial(part, *others), parts)))


def helper(function: F) -> F:
    """Compile a part of the loops below, which keeps its types."""
    return cast(F, numba.njit(function))


def _count_ones(_: Any, word: Any) -> Any:
    """Type and code of the number of ones in a 64-bit word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), generate


bits: Any = intrinsic(_count_ones)


# -- resamples: multiplicities against two columns ----------------------------------------------------------------


@helper
def _lanes(
    m: Counts, ends: Orders, codes: Orders, levels: int, tied: bool, sums: Ints, tree: NDArray[Any],
    total: NDArray[Any], near: NDArray[Any],
) -> None:  # fmt: skip
    """Write the sums of m_i m_j sign products of some resamples side by side.

    Args:
        m: multiplicities in the order of x, (n, LANES).
        ends: for each model in that order the end of those tied with it in x.
        codes: their levels of y, from 1.
        levels: how many there are.
        tied: whether models are tied in y.
        sums: written, (LANES,).
        tree: of prefix sums (Fenwick 1994), (levels + 1, LANES); overwritten. It may overflow: what is taken from it
            is lower models less higher ones, which its type holds, and sums and differences are right modulo its range.
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
                    near[lane] += near[lane]
            # Lower ones less higher ones: (lower) - (all - (lower or equal)).
            for lane in range(LANES):
                near[lane] -= total[lane]
            for lane in range(LANES):
                sums[lane] += np.int64(np.int32(m[i, lane]) * np.int32(near[lane]))
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
def _arranged(counts: Counts, order: Orders) -> Counts:
    """Return multiplicities in an order of the models, LANES resamples side by side, (B / LANES, n, LANES)."""
    resamples, n = counts.shape
    arranged = np.zeros(((resamples + LANES - 1) // LANES, n, LANES), np.uint8)
    for b in range(resamples):
        for i in range(n):
            arranged[b // LANES, i, b % LANES] = counts[b, order[i]]
    return arranged


@Kernel
def _weighted(arranged: Counts, ends: Orders, codes: Orders, levels: int, tied: bool, kind: NDArray[Any]) -> Ints:
    """Return the sum of m_i m_j sign products of each resample, (B / LANES, LANES); ``kind`` is of the tree's type."""
    sums = np.zeros((len(arranged), LANES), np.int64)
    tree, total, near = np.zeros((levels + 1, LANES), kind.dtype), np.zeros_like(kind), np.zeros_like(kind)
    for chunk in range(len(arranged)):
        _lanes(arranged[chunk], ends, codes, levels, tied, sums[chunk], tree, total, near)
    return sums


@Kernel
def _tied(counts: Counts, order: Orders, ends: Orders) -> Ints:
    """Return the sum of m_i m_j over pairs tied in a column, of each resample, (B,)."""
    resamples, n = counts.shape
    sums = np.zeros(resamples, np.int64)
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
        sums[b] = twice // 2
    return sums


class _Resamples:
    """Multiplicities against one column: what does not depend on the other is worked out once for many of them."""

    def __init__(self, counts: Counts, x: Ranked) -> None:
        self.counts, self.x = counts, x
        m = counts.sum(1, dtype=np.int64)
        self.pairs = (m**2 - np.einsum("bi,bi->b", counts, counts, dtype=np.int64)) // 2
        size = counts.size
        self.arranged: Counts = _arranged.serial(counts, x.order)
        self.tied = _tied(size, counts, x.order, x.ends) if x.tied else np.zeros_like(m)
        # Lower models less higher ones are at most all that were drawn.
        self.kind = np.zeros(LANES, np.int16 if int(m.max(initial=0)) < 2**15 else np.int32)


COLUMNS = 256  # targets whose resamples are kept; a study has dozens
# Those of the targets that were used last, which thousands of measures share: by the memory of the multiplicities,
# which nobody can write to and which is held here, and the order of the models.
_last: OrderedDict[tuple[Any, ...], _Resamples] = OrderedDict()


def _resamples(counts: Counts, x: Ranked) -> _Resamples:
    if counts.flags.writeable:
        return _Resamples(counts, x)
    memory = counts.__array_interface__["data"], counts.shape, counts.strides
    key = (*memory, x.order.tobytes(), x.ends.tobytes())
    if key not in _last:
        _last[key] = _Resamples(counts, x)
    _last.move_to_end(key)
    while len(_last) > COLUMNS or (len(_last) > 1 and sum(entry.arranged.nbytes for entry in _last.values()) > KEPT):
        _last.popitem(last=False)
    return _last[key]


def pair_sums(counts: Counts, x: Ranked, y: Ranked, ties: bool = True) -> Ints:
    """Return, for each resample, sums over pairs of different models i < j with weight m_i m_j, (B, 4).

    The columns are sign products, pairs, pairs tied in x, pairs tied in y. A model drawn twice is not
    compared with itself.

    Args:
        counts: how often each model occurs, (B, n).
        x: a column without missing values, (n,).
        y: another one.
        ties: whether the last column is wanted; it is 0 without.
    """
    steps, drawn = counts.size, _resamples(counts, x)
    sums = _weighted(steps, drawn.arranged, x.ends, y.codes[x.order], y.levels, y.tied, drawn.kind)
    tied = _tied(steps, counts, y.order, y.ends) if y.tied and ties else np.zeros_like(drawn.pairs)
    return np.stack([sums.reshape(-1)[: len(counts)], drawn.pairs, drawn.tied, tied], axis=1)


def plain_sums(x: Ranked, y: Ranked) -> Ints:
    """Return ``pair_sums`` of the models as they are, (4,)."""
    n = len(x.codes)
    signs = int(agreements(np.ones((1, n), np.uint8), x, y).sum()) // 2
    return np.array([signs, n * (n - 1) // 2, x.tied_with.sum() // 2, y.tied_with.sum() // 2], np.int64)


@Kernel
def _agreements(counts: Counts, order: Orders, ends: Orders, codes: Orders, levels: int) -> Ints:
    """Return for each resample and model the sum of m_j sign products over the others, (B, n)."""
    resamples, n = counts.shape
    sums = np.zeros((resamples, n), np.int64)
    for b in range(resamples):
        tree = np.zeros(levels + 1, np.int64)
        total, start = np.int64(0), 0
        while start < n:
            end = ends[start]
            for i in range(start, end):
                sums[b, order[i]] += _near(tree, codes[i]) - total
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
                sums[b, order[i]] -= _near(tree, codes[i]) - total
            start = end
    return sums


@helper
def _near(tree: Ints, code: int) -> np.int64:
    """Return those lower plus those lower or equal."""
    count = np.int64(0)
    j = code
    while j > 0:
        count += tree[j]
        j &= j - 1
    j = code - 1
    while j > 0:
        count += tree[j]
        j &= j - 1
    return count


@helper
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
    without: Ints = alone.sum(0) // 2 - alone  # each pair is that of two models
    return without
