"""Training many diagonal linear networks at once, compiled, in parallel.

Nearly all of the time goes into X beta - y and X^T r. Four rows of X are taken at a time, so that r and the sums stay
in registers; gradient descent takes two networks at a time too, so that what is loaded of X serves both. A network's
arithmetic does not depend on which the other one is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from acutance.system.kept import kept_threads

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Sums may be taken in another order and products fused, so that loops use vector instructions. NaN stays NaN.
FAST = {"reassoc", "contract", "nsz"}


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """Return a compiler with the on-disk cache where there is a place for it, without where there is none."""

    def compile_(function: Any) -> Any:
        try:
            return numba.njit(cache=True, fastmath=FAST, **options)(function)
        except RuntimeError:
            return numba.njit(fastmath=FAST, **options)(function)

    return compile_


@dataclass(frozen=True)
class Networks:
    """Trained networks.

    Attributes:
        u: (M, d) first factors.
        v: (M, d) second factors.
        loss: (M,) loss on all training points; NaN or infinite where training diverged.
        steps: (M,) steps taken.
    """

    u: Floats
    v: Floats
    loss: Floats
    steps: Ints


@kept_threads()
def train(
    x: Floats,
    y: Floats,
    u: Floats,
    v: Floats,
    learning_rate: Floats,
    *,
    factor: float = 1.0,
    batch_size: int | None = None,
    seeds: NDArray[np.uint64] | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 30_000,
    threads: int | None = None,
) -> Networks:
    r"""Minimise the loss of networks from each (u, v) by gradient descent, on all examples or on batches of them.

    .. math:: L(u, v) = \frac{\kappa}{2} \|X (u \odot v) - y\|^2

    .. math:: u \leftarrow u - \eta\, v \odot g, \quad v \leftarrow v - \eta\, u \odot g, \quad g = \kappa X_B^\top r_B

    Training of a network ends when its loss on all points is at most the tolerance, when it is not finite, or after
    ``max_steps``. Descent on all points checks at every step, for nothing; with batches it is checked before each
    epoch, whose order is drawn anew. A batch's loss is a sum over its examples, as the whole loss is, and the last
    batch of an epoch may be smaller. The result does not depend on the number of threads.

    Args:
        x: (n, d) inputs.
        y: (n,) targets.
        u: (M, d) first factors to start from.
        v: (M, d) second factors to start from.
        learning_rate: (M,) step sizes.
        factor: :math:`\kappa`: 1 for ``half_squared_sum``, 2 for ``squared_sum``.
        batch_size: examples in a step; all of them by default.
        seeds: (M,) names of the orders of the examples; needed with a batch size.
        tolerance: loss to reach.
        max_steps: when to give up.
        threads: how many to use; all that numba has by default.
    """
    u, v, rates = (np.array(array, np.float64, order="C") for array in (u, v, learning_rate))
    loss, steps = np.empty(len(u)), np.zeros(len(u), np.int64)
    if batch_size is not None and seeds is None:
        raise ValueError("batches need seeds for the order of the examples")
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads or before, before))
    try:
        if batch_size is None:
            # Small steps take the longest: those first, so that no thread is left with a long one at the end.
            queue, shares = np.argsort(rates, kind="stable"), min(4 * numba.get_num_threads(), (len(u) + 1) // 2)
            rows = _with_zeros(x, y, -len(y) % 4)
            _descend_all(*rows, u, v, rates, factor, tolerance, max_steps, queue, shares, loss, steps)
        else:
            # One network a piece of work: some take a hundred times as many steps as others.
            with numba.parallel_chunksize(1):
                rows = _with_zeros(x, y, 1)
                _sgd_all(*rows, u, v, rates, factor, batch_size, seeds, tolerance, max_steps, loss, steps)
    finally:
        numba.set_num_threads(before)
    return Networks(u, v, loss, steps)


def _with_zeros(x: Floats, y: Floats, count: int) -> tuple[Floats, Floats]:
    """Return X and y with rows of zeros at the end, which fill up fours and change no sum."""
    return np.vstack([x, np.zeros((count, x.shape[1]))]), np.append(y, np.zeros(count))


@_compiled()
def _step(u: Floats, v: Floats, beta: Floats, g: Floats, rate: float) -> None:
    """Take one step, and put u * v into beta."""
    for j in range(u.size):
        step, old = rate * g[j], u[j]
        u[j] = old - step * v[j]
        v[j] -= step * old
        beta[j] = u[j] * v[j]


# -- gradient descent -----------------------------------------------------------------------------------------


@_compiled()
def _two_gradients(x: Floats, y: Floats, beta: Floats, g: Floats) -> tuple[float, float]:
    r"""Put :math:`X^\top r` into g and return :math:`\frac12 \|r\|^2`, r = X beta - y, for two networks, (2, d)."""
    beta0, beta1, g0, g1 = beta[0], beta[1], g[0], g[1]
    g0[:] = 0.0
    g1[:] = 0.0
    total0 = total1 = 0.0
    for k in range(0, y.size, 4):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        r0, r1, r2, r3 = -y[k], -y[k + 1], -y[k + 2], -y[k + 3]
        s0, s1, s2, s3 = r0, r1, r2, r3
        for j in range(beta0.size):
            r0 += x0[j] * beta0[j]
            r1 += x1[j] * beta0[j]
            r2 += x2[j] * beta0[j]
            r3 += x3[j] * beta0[j]
            s0 += x0[j] * beta1[j]
            s1 += x1[j] * beta1[j]
            s2 += x2[j] * beta1[j]
            s3 += x3[j] * beta1[j]
        for j in range(beta0.size):
            g0[j] += r0 * x0[j] + r1 * x1[j] + r2 * x2[j] + r3 * x3[j]
            g1[j] += s0 * x0[j] + s1 * x1[j] + s2 * x2[j] + s3 * x3[j]
        total0 += r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
        total1 += s0 * s0 + s1 * s1 + s2 * s2 + s3 * s3
    return total0 / 2, total1 / 2


@_compiled()
def _descend_share(
    x: Floats, y: Floats, u: Floats, v: Floats, rates: Floats, factor: float, tolerance: float, max_steps: int,
    queue: Ints, loss: Floats, steps: Ints,
) -> None:  # fmt: skip
    """Train the networks of a queue, two at a time: one that ends makes room for the next."""
    beta, g = np.zeros((2, x.shape[1])), np.zeros((2, x.shape[1]))
    losses, current, place = np.zeros(2), np.full(2, -1), 0
    while True:
        for slot in range(2):
            if current[slot] < 0 and place < queue.size:
                current[slot] = queue[place]
                place += 1
                beta[slot] = u[current[slot]] * v[current[slot]]
        if current[0] < 0 and current[1] < 0:
            return
        losses[0], losses[1] = _two_gradients(x, y, beta, g)
        for slot in range(2):
            m = current[slot]
            if m < 0:
                continue
            value = factor * losses[slot]
            if value <= tolerance or steps[m] >= max_steps or not np.isfinite(value):
                # An empty place goes on with beta = 0: the other network's arithmetic stays the same.
                loss[m], current[slot], beta[slot] = value, -1, 0.0
                continue
            _step(u[m], v[m], beta[slot], g[slot], factor * rates[m])
            steps[m] += 1


@_compiled(parallel=True)
def _descend_all(
    x: Floats, y: Floats, u: Floats, v: Floats, rates: Floats, factor: float, tolerance: float, max_steps: int,
    queue: Ints, shares: int, loss: Floats, steps: Ints,
) -> None:  # fmt: skip
    for share in numba.prange(shares):
        _descend_share(x, y, u, v, rates, factor, tolerance, max_steps, queue[share::shares], loss, steps)


# -- stochastic gradient descent --------------------------------------------------------------------------------


@_compiled()
def _gradient(x: Floats, y: Floats, rows: Ints, start: int, stop: int, beta: Floats, g: Floats) -> float:
    r"""Put :math:`X_B^\top r_B` into g and return :math:`\frac12 \|r_B\|^2`, B = rows[start:stop]."""
    zero = y.size - 1
    g[:] = 0.0
    total = 0.0
    for k in range(start, stop, 4):
        i0 = rows[k]
        i1 = rows[k + 1] if k + 1 < stop else zero
        i2 = rows[k + 2] if k + 2 < stop else zero
        i3 = rows[k + 3] if k + 3 < stop else zero
        x0, x1, x2, x3 = x[i0], x[i1], x[i2], x[i3]
        r0, r1, r2, r3 = -y[i0], -y[i1], -y[i2], -y[i3]
        for j in range(beta.size):
            r0 += x0[j] * beta[j]
            r1 += x1[j] * beta[j]
            r2 += x2[j] * beta[j]
            r3 += x3[j] * beta[j]
        for j in range(beta.size):
            g[j] += r0 * x0[j] + r1 * x1[j] + r2 * x2[j] + r3 * x3[j]
        total += r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
    return total / 2


@_compiled()
def _random_below(state: NDArray[np.uint64], bound: int) -> int:
    """Return a random whole number below a bound (splitmix64; Steele et al. 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return int(z % np.uint64(bound))


@_compiled()
def _sgd(
    x: Floats, y: Floats, u: Floats, v: Floats, rate: float, batch: int, seed: int, tolerance: float, max_steps: int,
) -> tuple[float, int]:  # fmt: skip
    """Train one network by SGD on batches, with rate times the gradient of 1/2 ||r_B||^2, in place.

    Returns 1/2 ||r||^2 on all points at the end, and the number of steps taken.
    """
    n = y.size - 1
    rows, beta, g, state = np.arange(n), u * v, np.empty(u.size), np.empty(1, np.uint64)
    state[0] = seed
    steps = 0
    while True:
        loss = _gradient(x, y, rows, 0, n, beta, g)
        if loss <= tolerance or steps >= max_steps or not np.isfinite(loss):
            return loss, steps
        for i in range(n - 1, 0, -1):
            j = _random_below(state, i + 1)
            rows[i], rows[j] = rows[j], rows[i]
        for start in range(0, n, batch):
            if steps < max_steps:
                _gradient(x, y, rows, start, min(start + batch, n), beta, g)
                _step(u, v, beta, g, rate)
                steps += 1


@_compiled(parallel=True)
def _sgd_all(
    x: Floats, y: Floats, u: Floats, v: Floats, rates: Floats, factor: float, batch: int, seeds: NDArray[np.uint64],
    tolerance: float, max_steps: int, loss: Floats, steps: Ints,
) -> None:  # fmt: skip
    for m in numba.prange(len(u)):
        half, steps[m] = _sgd(x, y, u[m], v[m], factor * rates[m], batch, seeds[m], tolerance / factor, max_steps)
        loss[m] = factor * half
