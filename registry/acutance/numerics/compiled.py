r"""Walks over vectors on the CPU, compiled: each reads and writes memory once, or is one call in place of a dozen.

They compute what the blocks of torch in ``balls`` do, number by number in the same order and with the same fused
products, so iterates are bitwise the same; ``kernels`` tries that before it hands one out. Inner products are the one
exception: both sum them in double precision, and in another order.

``units`` says what c is: 0 for ones, 1 for the numbers of ``unit``, 2 for their magnitudes, so that the weights
themselves may be given for :math:`c = |w|`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

int32 = np.int32  # which numba makes int64 of in every sum: cast back, twice as many numbers are worked on at once
SIZE, INFINITY = int32(0x7FFF), int32(0x7F80)  # bits of bfloat16: all but the sign, and those of infinity


def _loop(function: F, fastmath: set[str] | bool = False) -> F:
    """Compile a walk when it is first called, and keep the code on disk where there is a place for it."""
    try:
        return cast(F, numba.njit(cache=True, nogil=True, fastmath=fastmath)(function))
    except RuntimeError:
        return cast(F, numba.njit(nogil=True, fastmath=fastmath)(function))


def _fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Type and code of a b + c with one rounding."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, b, c), generate


fused: Any = intrinsic(_fused)


def _recast(_: Any, x: Any) -> Any:
    """Type and code of the float32 of 32 bits, or of its bits."""
    other = numba.float32 if isinstance(x, numba.types.Integer) else numba.int32

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(other))

    return other(x), generate


recast: Any = intrinsic(_recast)


@numba.njit
def _clipped(x: Any, rho: Any) -> Any:
    return -rho if x < -rho else (rho if x > rho else x)


@numba.njit
def _in_type_of(x: Any, a: Any, b: Any, c: Any) -> Any:
    """Return three numbers in the type of a vector: torch multiplies its vectors by such ones."""
    kind = x.dtype.type
    return kind(a), kind(b), kind(c)


@numba.njit
def _in_box(g: Any, x: Any, before: Any, eta: Any, rho: Any, inertia: Any, first: Any) -> Any:
    """Return the next coordinate of a search in the box; ``inertia`` is (-momentum, 2 momentum, 1 - momentum)."""
    z = _clipped(x + eta if g > 0 else (x - eta if g < 0 else x), rho)
    if first:
        return z
    return _clipped(fused(z, inertia[2], fused(x, inertia[1], before * inertia[0])), rho)


@numba.njit
def _in_sphere(g: Any, x: Any, before: Any, on: Any, first: Any) -> Any:
    """Return the next coordinate in the Euclidean ball; ``on`` is (factor of x, of the one before, of g)."""
    if first:
        return fused(g, on[2], x) * on[0]
    return fused(x, on[0], fused(g, on[2], before * on[1]))


def _box(
    g: Any, unit: Any, x: Any, before: Any, w: Any, out: Any, point: Any,
    eta: Any, rho: Any, momentum: Any, units: Any, first: Any,
) -> None:  # fmt: skip
    eta_, rho_, _ = _in_type_of(x, eta, rho, 0.0)
    inertia = _in_type_of(x, -momentum, 2 * momentum, 1 - momentum)
    for i in range(g.size):
        c = abs(unit[i]) if units == 2 else unit[i]
        y = _in_box(g[i] * c if units else g[i], x[i], before[i], eta_, rho_, inertia, first)
        out[i] = y
        point[i] = fused(c, y, w[i]) if units else w[i] + y


def _box_in_place(
    g: Any, unit: Any, x: Any, w: Any, out: Any, point: Any,
    eta: Any, rho: Any, momentum: Any, units: Any, first: Any,
) -> None:  # fmt: skip
    eta_, rho_, _ = _in_type_of(x, eta, rho, 0.0)
    inertia = _in_type_of(x, -momentum, 2 * momentum, 1 - momentum)
    for i in range(g.size):
        c = abs(unit[i]) if units == 2 else unit[i]
        y = _in_box(g[i] * c if units else g[i], x[i], out[i], eta_, rho_, inertia, first)
        out[i] = y
        point[i] = fused(c, y, w[i]) if units else w[i] + y


def _sphere(
    g: Any, unit: Any, x: Any, before: Any, w: Any, out: Any, point: Any, on: Any, units: Any, first: Any
) -> None:
    factors = _in_type_of(x, *on)
    for i in range(g.size):
        c = abs(unit[i]) if units == 2 else unit[i]
        y = _in_sphere(g[i] * c if units else g[i], x[i], before[i], factors, first)
        out[i] = y
        point[i] = fused(c, y, w[i]) if units else w[i] + y


def _sphere_in_place(g: Any, unit: Any, x: Any, w: Any, out: Any, point: Any, on: Any, units: Any, first: Any) -> None:
    factors = _in_type_of(x, *on)
    for i in range(g.size):
        c = abs(unit[i]) if units == 2 else unit[i]
        y = _in_sphere(g[i] * c if units else g[i], x[i], out[i], factors, first)
        out[i] = y
        point[i] = fused(c, y, w[i]) if units else w[i] + y


def _products(g: Any, unit: Any, x: Any, before: Any, units: Any) -> Any:
    """Return the inner products gg, xg, bg, xx, xb, bb of c g, x and the iterate before, in double precision."""
    gg = xg = bg = xx = xb = bb = 0.0
    for i in range(g.size):
        c = abs(unit[i]) if units == 2 else unit[i]
        u, y, b = np.float64(g[i] * c if units else g[i]), np.float64(x[i]), np.float64(before[i])
        gg += u * u
        xg += y * u
        bg += b * u
        xx += y * y
        xb += y * b
        bb += b * b
    return gg, xg, bg, xx, xb, bb


def _confine(noise: Any, unit: Any, units: Any) -> Any:
    """Write 0 where c is 0; return how many numbers are not 0, and the sum of their squares in double precision."""
    count, squared = 0, 0.0
    for i in range(noise.size):
        y = noise[i] - noise[i] if units and unit[i] == 0 else noise[i]
        noise[i] = y
        count += y != 0
        squared += np.float64(y) * np.float64(y)
    return count, squared


def _move(w: Any, unit: Any, x: Any, scale: Any, point: Any, units: Any) -> None:
    """Write w + scale c x."""
    factor, _, _ = _in_type_of(w, scale, 0.0, 0.0)
    for i in range(w.size):
        c = abs(unit[i]) if units == 2 else unit[i]
        point[i] = fused(factor * c, x[i], w[i]) if units else fused(factor, x[i], w[i])


@numba.njit
def _wide(half: Any) -> Any:
    """Return the float32 of the bits of a bfloat16."""
    return recast(int32(int32(half) << int32(16)))


@numba.njit
def _random(i: Any, first: Any, second: Any) -> Any:
    """Return 32 random bits of the number at place i, as ``rounding.Dither`` makes them."""
    word = np.uint32(np.uint32(i) + first)
    word = np.uint32(np.uint32(word ^ (word >> np.uint32(17))) * np.uint32(0xED5AD4BB))
    word = np.uint32(np.uint32(np.uint32(word ^ (word >> np.uint32(11))) + second) * np.uint32(0xAC4C1B51))
    word = np.uint32(np.uint32(word ^ (word >> np.uint32(15))) * np.uint32(0x31848BAB))
    return np.uint32(word ^ (word >> np.uint32(14)))


@numba.njit
def _dithered(exact: Any, word: Any) -> Any:
    """Return the bits of float32 rounded to those of bfloat16: the last 16 are the share of the way outwards.

    Without a branch, which random numbers would make a processor guess.
    """
    inner, share = int32((exact >> int32(16)) & int32(0xFFFF)), int32(exact & int32(0xFFFF))
    up = int32(share + (inner & int32(1))) > int32(0x8000)  # ties go to even numbers
    near, beside = (int32(inner + int32(1)), inner) if up else (inner, int32(inner + int32(1)))
    odds = int32(int32(0x10000) - share) if up else share
    taken = (int32(word & np.uint32(0xFFFF)) < odds) & (int32(near & SIZE) != int32(0))
    finite = (int32(near & SIZE) < INFINITY) & (int32(beside & SIZE) < INFINITY)
    nan = int32(exact & int32(0x7FFFFFFF)) > int32(0x7F800000)
    return np.int16(int32(0x7FC0) if nan else beside if taken & finite else near)


def _dithered_move(w: Any, x: Any, scale: Any, first: Any, second: Any, start: Any, point: Any) -> None:
    """Write w + scale x rounded at random; w and the point are bits of bfloat16, and ``start`` is the place of w[0]."""
    factor, one, two = np.float32(scale), np.uint32(first), np.uint32(second)
    for i in range(w.size):
        point[i] = _dithered(recast(fused(factor, x[i], _wide(w[i]))), _random(start + i, one, two))


def _neighbours(w: Any, below: Any, first: Any, second: Any, start: Any, infinity: Any, out: Any) -> None:
    """Write numbers of half precision, some replaced by one beside them; all are given by their bits."""
    one, two, least = np.uint32(first), np.uint32(second), np.uint32(below)
    most, end = np.uint32(np.uint32(0xFFFFFFFF) - least), int32(infinity)
    for i in range(w.size):
        bits, word = int32(w[i]), _random(start + i, one, two)
        beside = int32(bits + int32(int32(word < least) - int32(word > most)))
        kept = (int32(beside & SIZE) >= end) | (int32(bits & SIZE) == int32(0))
        out[i] = np.int16(bits if kept else beside)


def _cross_entropy(logits: Any, targets: Any, gradient: Any) -> Any:
    """Return the mean loss of n rows of logits, (n, K), and write its gradient in them, (n, K); terms in float64."""
    n, classes = logits.shape
    terms, total = np.empty(classes), 0.0
    for i in range(n):
        top = -math.inf
        for k in range(classes):
            top = max(top, float(logits[i, k]))
        partition = 0.0
        for k in range(classes):
            terms[k] = math.exp(float(logits[i, k]) - top)
            partition += terms[k]
        for k in range(classes):
            gradient[i, k] = terms[k] / partition / n
        label = targets[i]
        if label < 0 or label >= classes:
            raise IndexError("a target is no index of a class")
        gradient[i, label] = (terms[label] / partition - 1.0) / n
        total += math.log(partition) - (float(logits[i, label]) - top)
    return total / n


def _mean_error(logits: Any, targets: Any) -> Any:
    """Return the share of rows of logits, (n, K), whose first largest one is not the label; NaN where there is none."""
    n, classes = logits.shape
    wrong = 0.0
    for i in range(n):
        best = 0
        for k in range(classes):
            if not logits[i, k] < math.inf:
                return math.nan
            if logits[i, k] > logits[i, best]:
                best = k
        wrong += best != targets[i]
    return wrong / n


box, box_in_place = _loop(_box), _loop(_box_in_place)
sphere, sphere_in_place = _loop(_sphere), _loop(_sphere_in_place)
# Summed in any order: one that fits the processor.
products, confine = _loop(_products, {"reassoc", "contract"}), _loop(_confine, {"reassoc", "contract"})
move, dithered_move, neighbours = _loop(_move), _loop(_dithered_move), _loop(_neighbours)
cross_entropy, mean_error = _loop(_cross_entropy), _loop(_mean_error)
