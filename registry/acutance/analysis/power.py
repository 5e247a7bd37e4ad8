r"""How many models are needed to see a given Kendall's tau."""

from __future__ import annotations

import math

from scipy.special import ndtr, ndtri

from acutance.analysis.kendall import null_sd
from acutance.errors import UserError

MOST = 10**7


def tau_sd(n: int, tau: float) -> float:
    r"""Return the standard deviation of tau-a over samples of n jointly normal scores (Esscher 1924).

    .. math:: Var(\hat\tau) = \frac{2}{n(n-1)} \left[1 - \tau^2 + 2 (n-2) \left(\tfrac{1}{9} -
              \left(\tfrac{2}{\pi} \arcsin \tfrac{\rho}{2}\right)^2\right)\right], \quad \rho = \sin\frac{\pi \tau}{2}

    At tau = 0 it is that of independence, 2 (2n+5) / (9 n (n-1)).
    """
    third = 2 / math.pi * math.asin(math.sin(math.pi * tau / 2) / 2)
    return math.sqrt(2 / (n * (n - 1)) * (1 - tau**2 + 2 * (n - 2) * (1 / 9 - third**2)))


def power_of(n: int, tau: float, alpha: float = 0.05) -> float:
    """Return the probability that a two-sided test of "no association" finds tau with n models."""
    cut = float(ndtri(1 - alpha / 2)) * null_sd(n)
    sd = tau_sd(n, tau)
    return float(ndtr((abs(tau) - cut) / sd) + ndtr((-cut - abs(tau)) / sd))


def models_needed(tau: float = 0.2, power: float = 0.8, *, alpha: float = 0.05, comparisons: int = 1) -> int:
    r"""Return the smallest number of models that show a tau with the given power.

    .. math:: P\left(|\hat\tau| > z_{1-\alpha/2}\, \sigma_0(n)\right) \ge power, \quad
              \hat\tau \sim N(\tau, \sigma_\tau(n)^2)

    Simulations of the permutation test agree within two points of power from 10 models on.

    Args:
        tau: the true association, not 0.
        power: probability to find it.
        alpha: level of the two-sided test.
        comparisons: correlations that share the level (Bonferroni): 384 for the paper's tables.

    Raises:
        UserError: for a tau of 0 or at least 1 in size, or probabilities outside (0, 1).
    """
    if not 0 < abs(tau) < 1:
        raise UserError(f"tau: must be between 0 and 1 in size, got {tau}")
    if not alpha < power < 1 or not 0 < alpha < 1 or comparisons < 1:
        raise UserError("power, alpha and comparisons: need alpha < power < 1 and at least one comparison")
    level = alpha / comparisons
    low, high = 4, 8
    while power_of(high, tau, level) < power:
        low, high = high, 2 * high
        if high > MOST:
            raise UserError(f"tau: more than {MOST} models would be needed for {tau}", "ask for a larger tau")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, tau, level) >= power else (middle, high)
    return low if power_of(low, tau, level) >= power else high
