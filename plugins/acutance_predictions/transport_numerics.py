"""An auction for the transport of points, all of one weight, to classes of given frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Units = NDArray[np.int64]

FIRST, SHRINK = 0.1, 5.0  # the largest price rise of the first auction, and its ratio to that of the next
BIDS = 2000  # bids of all auctions together, in points and classes
NEAR = 1 << 17  # numbers of a block
OWN = -1  # who holds what nobody has bought yet


@dataclass(frozen=True)
class Plan:
    """A transport plan.

    Attributes:
        cost: of the plan.
        gap: by how much it is at most above the least cost.
        bids: made in all auctions.
    """

    cost: float
    gap: float
    bids: int


def transported(p: Array, counts: Units, tolerance: float) -> Plan:
    r"""Return a plan of :math:`\max \sum x_{iy} p_{iy}`, :math:`\sum_y x_{iy} = 1/n`, :math:`\sum_i x_{iy} = c_y/m`.

    Every point owns m units and every class takes n units for each label, m in all, so that all is counted in whole
    numbers. Points bid for units of the class that they gain most of, up to what makes the next best class as good and
    :math:`\varepsilon` more; a plan in which all have bid costs at most :math:`\varepsilon` more than the best. The
    prices of an auction are where the next one starts, with a smaller :math:`\varepsilon`.

    Args:
        p: (n, K).
        counts: (K,) labels of each class, m in all.
        tolerance: of the cost, for a gap at most that large.
    """
    classes = np.flatnonzero(counts)
    gains = np.ascontiguousarray(p if len(classes) == p.shape[1] else p[:, classes])
    n, m = len(p), int(counts.sum())
    capacity = counts[classes].astype(np.int64) * n
    prices = np.zeros(len(classes))
    left, bids, rise = BIDS * (n + len(classes)), 0, FIRST
    best_cost, best_bound = np.inf, -np.inf
    while True:
        rise = max(rise, tolerance / 2)
        gained, made = _auction(gains, capacity, m, prices, rise, left)
        left, bids = left - made, bids + made
        best_cost = min(best_cost, 1 - gained / (n * m))
        bound = 1 - float(prices @ capacity) / (n * m) - _best(gains, prices)
        best_bound = max(best_bound, bound)
        gap = max(best_cost - best_bound, 0.0)
        if gap <= tolerance or left <= 0 or rise <= tolerance / 2:
            return Plan(best_cost, gap, bids)
        rise /= SHRINK


def _best(gains: Array, prices: Array) -> float:
    """Return the mean over the points of what the best class gains less its price, some points at a time."""
    rows = max(1, NEAR // len(prices))
    blocks = (gains[start : start + rows] for start in range(0, len(gains), rows))
    return float(sum((block - prices).max(1).sum() for block in blocks)) / len(gains)


def _compiled(function: Any) -> Any:
    """Return a compiled function, kept on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def _merge(a: int, b: int, key: Array, below: Units, beside: Units) -> int:
    """Return the root of two skew heaps, merged: the smallest key is on top, -1 is an empty heap."""
    root, parent = -1, -1
    while a >= 0 and b >= 0:
        if key[b] < key[a]:
            a, b = b, a
        if parent < 0:
            root = a
        else:
            below[parent] = a
        parent, following = a, beside[a]
        beside[a] = below[a]
        a = following
    rest = a if a >= 0 else b
    if parent < 0:
        return rest
    below[parent] = rest
    return root


_merged = _compiled(_merge)


def _run(gains: Array, capacity: Units, m: int, prices: Array, rise: float, most: int) -> tuple[float, int]:
    """Hold one auction from these prices, and leave those that it ends with; return the units' gain and the bids.

    What has been bought of a class is a heap by the price that was bid, so that the cheapest units are sold first.
    Where bids run out, what is not sold goes to any point that has units left.
    """
    n, count = gains.shape
    size = 2 * (n + count)
    key, holder, units = np.empty(size), np.empty(size, np.int64), np.empty(size, np.int64)
    below, beside = np.full(size, -1), np.full(size, -1)
    free = np.arange(size - 1, -1, -1)
    spare = size
    tops = np.empty(count, np.int64)
    for y in range(count):
        spare -= 1
        node = free[spare]
        key[node], holder[node], units[node] = prices[y], OWN, capacity[y]
        below[node], beside[node] = -1, -1
        tops[y] = node
    owned = np.full(n, m)
    queue, head, waiting = np.arange(n), 0, n
    bids = 0
    while waiting > 0 and bids < most:
        i = queue[head]
        bids += 1
        # The best class, and the value of the next best.
        best, value, second = 0, gains[i, 0] - prices[0], -np.inf
        for y in range(1, count):
            net = gains[i, y] - prices[y]
            if net > second:
                if net > value:
                    best, second, value = y, value, net
                else:
                    second = net
        if count == 1:
            second = value
        # Up to this price units are as good as those of the next best class.
        even = prices[best] + (value - second)
        bid, bought = even + rise, 0
        while owned[i] > 0 and tops[best] >= 0 and key[tops[best]] <= even:
            node = tops[best]
            taken = min(owned[i], units[node])
            units[node] -= taken
            owned[i] -= taken
            bought += taken
            other = holder[node]
            if other != OWN:
                if owned[other] == 0 and other != i:
                    queue[(head + waiting) % n] = other
                    waiting += 1
                owned[other] += taken
            if units[node] == 0:
                tops[best] = _merged(below[node], beside[node], key, below, beside)
                free[spare] = node
                spare += 1
        if bought > 0:
            if spare == 0:
                key, holder, units = np.append(key, key), np.append(holder, holder), np.append(units, units)
                below, beside = np.append(below, below), np.append(beside, beside)
                free = np.arange(2 * size - 1, -1, -1)
                spare = size
                size *= 2
            spare -= 1
            node = free[spare]
            key[node], holder[node], units[node] = bid, i, bought
            below[node], beside[node] = -1, -1
            tops[best] = _merged(tops[best], node, key, below, beside)
        prices[best] = key[tops[best]]
        if owned[i] == 0:
            head = (head + 1) % n
            waiting -= 1
    gained, at = 0.0, 0
    for y in range(count):
        while tops[y] >= 0:
            node = tops[y]
            tops[y] = _merged(below[node], beside[node], key, below, beside)
            while units[node] > 0:
                if holder[node] == OWN:
                    while owned[at] == 0:
                        at += 1
                    i, taken = at, min(owned[at], units[node])
                    owned[at] -= taken
                else:
                    i, taken = holder[node], units[node]
                units[node] -= taken
                gained += taken * gains[i, y]
    return gained, bids


_auction = _compiled(_run)
