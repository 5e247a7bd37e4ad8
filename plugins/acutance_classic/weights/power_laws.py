"""Laws of spectra: a power law fitted to a tail, and the median of the law of Marchenko and Pastur."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

ROWS = 256  # candidates for the start of a tail that are compared at once
EQUAL = 1e-12  # what eigenvalues differ by, relative, where they are the same
ALL_THE_SAME = "all eigenvalues are the same"
ANGLES = 20_001  # points of the integral that gives a median


class UnfitError(Exception):
    """Raised for a layer to which nothing can be fitted."""


@dataclass(frozen=True)
class PowerLaw:
    """A power law, fitted: its exponent, where the tail starts, of how many it consists, how far it is from the law."""

    alpha: float
    xmin: float
    tail: int
    distance: float

    @property
    def stderr(self) -> float:
        """Standard error of the exponent."""
        return (self.alpha - 1) / math.sqrt(self.tail)


def power_law(values: Tensor) -> PowerLaw:
    """Return the power law of the tail of positive values, (n,), in ascending order.

    Raises:
        UnfitError: where all values are the same.
    """
    logs, n = values.log(), len(values)
    tails = n - torch.arange(n, device=values.device)  # how many lie from each value on
    above = logs.flip(0).cumsum(0).flip(0) - tails * logs
    new = torch.ones(n, dtype=torch.bool, device=values.device)
    new[1:] = values[1:] > values[:-1]
    starts = torch.nonzero(new & (above > EQUAL * tails)).squeeze(1)
    if len(starts) == 0:
        raise UnfitError(ALL_THE_SAME)
    alphas = 1 + tails / above
    distances = torch.cat([_distances(logs, alphas[few], few) for few in starts.split(ROWS)])
    best = starts[distances.argmin()]
    return PowerLaw(float(alphas[best]), float(values[best]), int(tails[best]), float(distances.min()))


def _distances(logs: Tensor, alphas: Tensor, starts: Tensor) -> Tensor:
    """Return Kolmogorov and Smirnov's distance of the tail from each start on to its law, (k,)."""
    n = len(logs)
    rank = torch.arange(n, device=logs.device, dtype=logs.dtype) - starts[:, None]  # how many of the tail are smaller
    law = -torch.expm1((1 - alphas)[:, None] * (logs - logs[starts][:, None]))
    return (law - rank / (n - starts)[:, None]).abs().masked_fill(rank < 0, 0).amax(1)


@lru_cache(maxsize=64)
def marchenko_pastur_median(beta: float) -> float:
    r"""Return the median of the law of Marchenko and Pastur with unit variance, :math:`0 < \beta \le 1`.

    With :math:`x = 1 + \beta + 2\sqrt\beta \cos\theta` the density is
    :math:`2 \sin^2\theta / (\pi x)` in :math:`\theta`, without a singularity.
    """
    theta = torch.linspace(math.pi, 0, ANGLES, dtype=torch.float64)
    x = 1 + beta + 2 * math.sqrt(beta) * theta.cos()
    # At beta = 1 the quotient is 0/0 at the lower end; its limit is 2/pi.
    density = torch.where(x > 1e-14, 2 * theta.sin().square() / (math.pi * x), 2 / math.pi)
    share = torch.cumulative_trapezoid(density, -theta)
    place = int(torch.searchsorted(share, 0.5))
    low, high = float(share[place - 1]), float(share[place])
    angle = theta[place] + (theta[place + 1] - theta[place]) * (0.5 - low) / (high - low)
    return 1 + beta + 2 * math.sqrt(beta) * math.cos(angle)
