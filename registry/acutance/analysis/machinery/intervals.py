"""Confidence intervals over models from resampled and leave-one-out values of any coefficient."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]


def bca(value: float, resampled: Array, leave_one_out: Array, confidence: float, resamples: int) -> tuple[float, float]:
    r"""Return the bias-corrected and accelerated bootstrap interval (Efron 1987).

    .. math:: \alpha_z = \Phi\left(z_0 + \frac{z_0 + z}{1 - a (z_0 + z)}\right)

    with the bias :math:`z_0 = \Phi^{-1}(P^*(\theta^* < \theta))`, half of the ties counted, and the acceleration
    :math:`a = \sum d^3 / 6 (\sum d^2)^{3/2}` of the jackknife.

    Args:
        value: the coefficient of the sample.
        resampled: finite values of resamples, (B,).
        leave_one_out: values without one model each, (n,); those that are not finite are left out.
        confidence: level, e.g. 0.95.
        resamples: how many were asked for, which bounds how extreme the bias can be estimated.
    """
    alpha = (1 - confidence) / 2
    below = (resampled < value - 1e-12).mean() + 0.5 * (np.abs(resampled - value) <= 1e-12).mean()
    # One resample at most separates a share of 0 or 1 from what can be estimated.
    z0 = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    d = np.nanmean(leave_one_out) - leave_one_out[np.isfinite(leave_one_out)]
    squares = float((d**2).sum())
    a = float((d**3).sum()) / (6 * squares**1.5) if squares > 1e-24 else 0.0
    shares = []
    for z in (ndtri(alpha), ndtri(1 - alpha)):
        denominator = 1 - a * (z0 + z)
        shifted = z0 + (z0 + z) / denominator if denominator > 0 else math.copysign(math.inf, z)
        shares.append(ndtr(shifted))
    low, high = np.quantile(resampled, shares)
    return max(float(low), -1.0), min(float(high), 1.0)


def jackknife(value: float, leave_one_out: Array, confidence: float) -> tuple[float, float]:
    r"""Return value ± z se with the jackknife's standard error, cut at ±1.

    .. math:: se^2 = \frac{n-1}{n} \sum_i (\theta_{(-i)} - \bar\theta_{(\cdot)})^2

    which for tau-a is :math:`\frac{M-1}{M} \frac{4}{(M-2)^2} \sum_i (C_i - \tau)^2`,
    :math:`C_i` being the mean agreement of model i with the others.
    """
    finite = leave_one_out[np.isfinite(leave_one_out)]
    n = len(finite)
    se = math.sqrt((n - 1) / n * float(((finite - finite.mean()) ** 2).sum())) if n else math.nan
    z = float(ndtri((1 + confidence) / 2))
    return max(value - z * se, -1.0), min(value + z * se, 1.0)
