r"""How small tau may be when every pair of models agrees: a bound where the bootstrap has nothing to say."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PIECE = 2**18  # numbers that are drawn at once


@lru_cache(maxsize=256)
def perfect_bound(n: int, alpha: float, draws: int = 9999, seed: int = 0) -> float:
    r"""Return the smallest tau under which all pairs of n models agree with probability at least alpha.

    Every resample of a perfect ranking is perfect, so no bootstrap interval has a width. The bound inverts a test
    instead, as Clopper and Pearson do for n successes of n. Scores that are jointly normal after some increasing
    transformation of each are :math:`(x, \kappa x + z)` up to scale, with independent normal x and z,
    :math:`\kappa = \rho / \sqrt{1 - \rho^2}` and :math:`\tau = 2 \arcsin(\rho) / \pi = 2 \arctan(\kappa) / \pi`.
    With the models ordered by x their ranking is perfect exactly when
    :math:`\kappa > k = \max_i -(z_{i+1} - z_i) / (x_{i+1} - x_i)`, so the bound is

    .. math:: \tau_{low} = \tfrac{2}{\pi} \arctan Q_\alpha(k)

    with the alpha quantile of k. It is below 0 exactly when chance alone makes all pairs agree that often,
    :math:`1/n! > \alpha`, so interval and permutation test do not contradict each other.

    Without any assumption the answer is far weaker. If a share e of models contradicts all others, a perfect ranking
    of n has probability :math:`(1-e)^n` and :math:`\tau = 2 (1-e)^2 - 1`: with 11 models, none of them such an
    outlier, e may still be 28%, and tau near 0.02.

    Args:
        n: models, at least 2.
        alpha: probability of a perfect ranking at the bound, half the error rate of a two-sided interval.
        draws: simulated rankings.
        seed: names them.
    """
    first, second = (np.random.default_rng([seed, n, 3]) for _ in range(2))
    rows = max(1, PIECE // n)
    pieces = [min(rows, draws - start) for start in range(0, draws, rows)]
    # All x come before the first z in the stream of numbers.
    for count in pieces:
        second.normal(size=(count, n))
    k = np.concatenate([_steepest(first.normal(size=(count, n)), second.normal(size=(count, n))) for count in pieces])
    return 2 / math.pi * math.atan(float(np.quantile(k, alpha)))


def _steepest(x: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return k of each row, (B, n) -> (B,)."""
    with np.errstate(divide="ignore"):
        steepest: NDArray[np.float64] = (-np.diff(z) / np.diff(np.sort(x, axis=1))).max(1)
    return steepest
