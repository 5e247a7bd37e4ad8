"""Training many diagonal linear networks at once, compiled: one network an iteration of a parallel loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

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
    # Rows are taken four at a time; a row of zeros takes the places that are left over and changes nothing.
    padded, targets = np.vstack([x, np.zeros((1, x.shape[1]))]), np.append(y, 0.0)
    m = len(u)
    found = Networks(
        np.array(u, np.float64, order="C"), np.array(v, np.float64, order="C"), np.empty(m), np.empty(m, np.int64)
    )
    if seeds is None and batch_size is not None:
        raise ValueError("batches need seeds for the order of the examples")
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads or before, before))
    try:
        # One network a piece of work: some take a hundred times as many steps as others.
        with numba.parallel_chunksize(1):
            _train(
                padded, targets, found.u, found.v, np.asarray(learning_rate, np.float64), float(factor),
                0 if batch_size is None else batch_size, np.zeros(m, np.uint64) if seeds is None else seeds,
                float(tolerance), max_steps, found.loss, found.steps,
            )  # fmt: skip
    finally:
        numba.set_num_threads(before)
    return found


@_compiled()
def _half_squares(x: Floats, y: Floats, rows: Ints, start: int, stop: int, beta: Floats, g: Floats) -> float:
    r"""Put :math:`X_B^\top r_B` into g and return :math:`\frac12 \|r_B\|^2`, B = rows[start:stop], r = X beta - y."""
    d, zero = beta.size, x.shape[0] - 1
    g[:] = 0.0
    total = 0.0
    for k in range(start, stop, 4):
        i0 = rows[k]
        i1 = rows[k + 1] if k + 1 < stop else zero
        i2 = rows[k + 2] if k + 2 < stop else zero
        i3 = rows[k + 3] if k + 3 < stop else zero
        x0, x1, x2, x3 = x[i0], x[i1], x[i2], x[i3]
        r0, r1, r2, r3 = -y[i0], -y[i1], -y[i2], -y[i3]
        for j in range(d):
            r0 += x0[j] * beta[j]
            r1 += x1[j] * beta[j]
            r2 += x2[j] * beta[j]
            r3 += x3[j] * beta[j]
        for j in range(d):
            g[j] += r0 * x0[j] + r1 * x1[j] + r2 * x2[j] + r3 * x3[j]
        total += r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3
    return total / 2


@_compiled()
def _descend(u: Floats, v: Floats, beta: Floats, g: Floats, rate: float) -> None:
    """Take one step, and put u * v into beta."""
    for j in range(u.size):
        step, old = rate * g[j], u[j]
        u[j] = old - step * v[j]
        v[j] -= step * old
        beta[j] = u[j] * v[j]


@_compiled()
def _below(state: NDArray[np.uint64], bound: int) -> int:
    """Return a random whole number below a bound (splitmix64; Steele et al. 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    # The remainder of 64 bits: for n points some are more likely than others by n / 2^64.
    return int(z % np.uint64(bound))


@_compiled()
def _train_one(
    x: Floats, y: Floats, u: Floats, v: Floats, rate: float, factor: float, batch: int, seed: np.uint64,
    tolerance: float, max_steps: int,
) -> tuple[float, int]:  # fmt: skip
    """Train one network in place; return its loss and the steps."""
    n, d = x.shape[0] - 1, x.shape[1]
    rows, beta, g = np.arange(n), u * v, np.empty(d)
    state = np.empty(1, np.uint64)
    state[0] = seed
    steps = 0
    while True:
        loss = factor * _half_squares(x, y, rows, 0, n, beta, g)
        if loss <= tolerance or steps >= max_steps or not np.isfinite(loss):
            return loss, steps
        if batch == 0:
            _descend(u, v, beta, g, factor * rate)
            steps += 1
            continue
        for i in range(n - 1, 0, -1):
            j = _below(state, i + 1)
            rows[i], rows[j] = rows[j], rows[i]
        for start in range(0, n, batch):
            if steps < max_steps:
                _half_squares(x, y, rows, start, min(start + batch, n), beta, g)
                _descend(u, v, beta, g, factor * rate)
                steps += 1


@_compiled(parallel=True)
def _train(
    x: Floats, y: Floats, u: Floats, v: Floats, rates: Floats, factor: float, batch: int, seeds: NDArray[np.uint64],
    tolerance: float, max_steps: int, loss: Floats, steps: Ints,
) -> None:  # fmt: skip
    for m in numba.prange(len(u)):
        loss[m], steps[m] = _train_one(x, y, u[m], v[m], rates[m], factor, batch, seeds[m], tolerance, max_steps)
