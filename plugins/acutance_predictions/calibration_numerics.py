"""Bins of the confidence, and the temperature that makes labels likeliest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance_predictions.measure import TAKEN_AWAY

NOWHERE = -1e30  # its exponential is 0 at every temperature, and so is its product with that
STEPS = 100
PRECISION = 1e-8  # of the last step, relative: what is left after it is the square of that
ROUGH = 1e-3  # the same in float32, on the way
USUAL = 1e3  # mean gap to the largest logit up to which logits are taken as they are
NEAR = 1 << 16  # numbers


@dataclass(frozen=True, eq=False)
class Bins:
    """What is in the bins that are not empty.

    Attributes:
        share: of the points, (b,).
        confidence: mean of the bin, (b,).
        accuracy: share of right points of the bin, (b,).
        noise: standard deviation of the accuracy, (b,).
    """

    share: Tensor
    confidence: Tensor
    accuracy: Tensor
    noise: Tensor

    @property
    def gap(self) -> float:
        """Mean magnitude of confidence less accuracy."""
        return float(self.share @ (self.confidence - self.accuracy).abs())

    @property
    def bias(self) -> float:
        """By how much normal noise of the accuracies raises the mean magnitude of the gaps."""
        gaps = (self.confidence - self.accuracy).abs()
        ratio = gaps / self.noise  # infinite where there is no noise: the folded normal variable is the gap then
        spread = torch.where(self.noise > 0, self.noise * math.sqrt(2 / math.pi) * (-(ratio**2) / 2).exp(), 0.0)
        folded = torch.where(self.noise > 0, spread + gaps * torch.erf(ratio / math.sqrt(2)), gaps)
        return float(self.share @ (folded - gaps))


def edges(confidence: Tensor, bins: int, binning: str) -> Tensor:
    """Return the right edges of all bins but the last, (bins - 1,)."""
    steps = torch.arange(1, bins, dtype=torch.int64, device=confidence.device)
    if binning == "equal_width":
        return steps.double() / bins
    n = len(confidence)
    ranks = (steps * n + bins - 1) // bins  # from 1: the smallest confidence that a share of steps/bins does not exceed
    return confidence.sort().values[ranks - 1]


def binned(confidence: Tensor, right: Tensor, bins: int, binning: str) -> Bins:
    """Return means over right-closed bins.

    Args:
        confidence: (n,).
        right: (n,) whether the predicted class is the label.
        bins: their number.
        binning: equal_width or equal_mass.
    """
    where = torch.bucketize(confidence, edges(confidence, bins, binning))
    counts = torch.bincount(where, minlength=bins)
    filled = counts > 0
    n = counts[filled].double()
    conf, acc = (torch.bincount(where, v.double(), bins)[filled] / n for v in (confidence, right))
    return Bins(n / len(confidence), conf, acc, (acc * (1 - acc) / n).sqrt())


def best_temperature(logits: Tensor, y: Tensor) -> Estimate:
    r"""Return the T of the smallest negative log likelihood.

    Newton's steps on :math:`\beta = 1/T`, where with :math:`z` the logits less the largest of each point

    .. math:: L(\beta) = \overline{\log \textstyle\sum_k e^{\beta z_k} - \beta z_y}, \quad
              L' = \overline{E_\beta z - z_y}, \quad L'' = \overline{Var_\beta z} \ge 0,

    kept between two points at which the slope has opposite signs.

    Args:
        logits: (n, K) float64; minus infinity of classes that are taken away.
        y: (n,) labels.

    Raises:
        Unsupported: where no T between 0 and infinity is best.
    """
    z = logits - logits.amax(1, keepdim=True)
    own, away = z.gather(1, y[:, None])[:, 0], None
    if lost := int(own.isinf().sum()):
        raise Unsupported(f"the labels of {lost} of {len(y)} points {TAKEN_AWAY}: no temperature makes them likely")
    lowest = float(z.amin())
    if math.isinf(lowest):  # classes that are taken away have no part in anything
        away = z == -torch.inf
        lowest = float(z.masked_fill_(away, 0.0).amin())
    if lowest == 0:
        raise Unsupported("the logits of every point are all equal: every temperature makes the labels equally likely")
    if bool((own == 0).all()):
        raise Unsupported(
            "no logit of any point is above that of its label: ever smaller temperatures make the labels likelier, "
            "none is best"
        )
    uniform = z.mean(1) if away is None else z.sum(1) / (~away).sum(1)
    if float((uniform - own).mean()) >= 0:
        raise Unsupported(
            "the labels' logits are on average no larger than those of all classes: ever larger temperatures make the "
            "labels likelier, none is best"
        )
    # Steps are taken on logits of about the size that networks give.
    unit = max(1.0, -float(uniform.mean()) / USUAL)
    target, start, z = float(own.mean()) / unit, 1.0, z.div_(unit)
    if away is not None:
        z.masked_fill_(away, NOWHERE)
    if z.numel() > NEAR:
        # Half the bytes bring it near; the steps in float64 start there, and settle what it is.
        start = _descended(z.float(), target, 1.0, ROUGH).beta
    found = _descended(z, target, start, PRECISION)
    if not found.done:
        message = f"1/T was still moving after {STEPS} steps"
        return Estimate(unit / found.beta, status=Status.NOT_CONVERGED, message=message)
    return Estimate(unit / found.beta, extras={"negative_log_likelihood": found.value})


class Descent(NamedTuple):
    """Where Newton's steps led.

    Attributes:
        beta: the last point.
        value: the negative log likelihood at the point before, equal up to the square of the last step.
        done: whether the last step was within the precision.
    """

    beta: float
    value: float
    done: bool


def _descended(z: Tensor, target: float, beta: float, precision: float) -> Descent:
    """Take Newton's steps from beta; ``target`` is the mean of the labels' z."""
    low, high = 0.0, math.inf
    for _ in range(STEPS):
        mean, curvature, log_total = _moments(z, beta)
        slope = mean - target
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else math.nan
        if not low <= step <= high:
            step = 4 * beta if math.isinf(high) else (low + high) / 2
        value = log_total - beta * target
        done, beta = abs(step - beta) <= precision * beta, step
        if done:
            break
    return Descent(beta, value, done)


def _moments(z: Tensor, beta: float) -> tuple[float, float, float]:
    r"""Return means over the points of :math:`E_\beta z`, :math:`Var_\beta z` and :math:`\log \sum_k e^{\beta z_k}`.

    Some points at a time, in memory that the processor keeps near.
    """
    sums = [0.0, 0.0, 0.0]
    for part in z.split(max(1, NEAR // z.shape[1])):
        weights = (beta * part).exp_()
        total = weights.sum(1)
        mean = weights.mul_(part).sum(1) / total
        square = torch.linalg.vecdot(weights, part) / total
        for i, values in enumerate((mean, square - mean**2, total.log())):
            sums[i] += float(values.double().sum())
    return sums[0] / len(z), sums[1] / len(z), sums[2] / len(z)
