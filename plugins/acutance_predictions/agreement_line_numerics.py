"""The line through probits of agreements, and what it says of accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance_predictions.common_points import shared_with_validation, told
from acutance_predictions.outputs import labels
from acutance_predictions.pool_numerics import NONE, NOT_FINITE, Predicted, agreements, lost, predicted

if TYPE_CHECKING:
    from acutance.peers import Peer
    from acutance_predictions.agreement_line import LineSpec

Array = NDArray[np.float64]
FEWEST = 3


@dataclass(frozen=True)
class Line:
    """Least squares of y on x.

    Attributes:
        slope: a.
        intercept: b.
        r2: squared correlation.
        pairs: pairs of models on it.
    """

    slope: float
    intercept: float
    r2: float
    pairs: int

    @classmethod
    def through(cls, x: Array, y: Array) -> Line:
        """Return the line through points, in exactly rounded sums, so that their order does not matter.

        Raises:
            Unsupported: for too few points, or ones that are all above each other.
        """
        n = len(x)
        if n < FEWEST:
            raise Unsupported(f"the line needs {FEWEST} pairs of models that agree on some points but not on all")
        dx, dy = x - math.fsum(x) / n, y - math.fsum(y) / n
        xx, xy, yy = math.fsum(dx * dx), math.fsum(dx * dy), math.fsum(dy * dy)
        if xx <= 1e-20 * n or yy <= 1e-20 * n:
            raise Unsupported("all pairs of models agree equally often, so that no line goes through their agreements")
        slope = xy / xx
        return cls(slope, (math.fsum(y) - slope * math.fsum(x)) / n, xy * xy / (xx * yy), n)


def estimates_of_group(peers: Sequence[Peer], classes: Tensor, spec: LineSpec) -> list[Estimate]:
    """Return the error of each of the models of as many classes, or why none of them has one.

    Args:
        peers: the models.
        classes: (M, n) predicted on the points.
        spec: the settings.
    """
    try:
        beside, y, common = on_validation(peers)
        found = lost(estimates_of_line(classes, beside.classes, y, spec.variant, spec.least_r2), beside)
    except Unsupported as error:
        return [Estimate.without_value(Status.UNSUPPORTED, str(error))] * len(peers)
    none = Estimate.without_value(Status.NONFINITE, NOT_FINITE)
    return [none if own[0] == NONE else told(one, common) for own, one in zip(classes, found, strict=True)]


def on_validation(peers: Sequence[Peer]) -> tuple[Predicted, Tensor, int]:
    """Return what each model predicts of the m validation points, their labels, (m,), and how many are measured.

    Each model is opened in turn.

    Raises:
        Unsupported: where there are none, or too many of them are the points themselves.
    """
    logits, y, common = [], None, 0
    for peer in peers:
        surface = peer.surface()
        beside = surface.companion("validation")
        logits.append(beside.clean_logits().detach().cpu())
        if y is None:
            common = shared_with_validation(surface, beside)
            y = labels(beside).cpu()
    assert y is not None
    return predicted(logits, [peer.name for peer in peers]), y, common


def estimates_of_line(classes: Tensor, beside: Tensor, y: Tensor, variant: str, least_r2: float) -> list[Estimate]:
    """Return the error of each model.

    Args:
        classes: (M, n) predicted on the points.
        beside: (M, m) predicted on the validation points.
        y: (m,) labels of these.
        variant: single or pairs.
        least_r2: squared correlation that the line must have.

    Raises:
        Unsupported: where there is no such line.
    """
    agree, agree_v = (probits(agreements(one).numpy()) for one in (classes, beside))
    accuracy = (beside == y.to(beside.dtype)).double().mean(1)
    accuracy[(beside[:, 0] == NONE) | (classes[:, 0] == NONE)] = torch.nan
    known = probits(accuracy.numpy())
    first, second = np.triu_indices(len(known), 1)
    there = np.isfinite(agree[first, second]) & np.isfinite(agree_v[first, second])
    left_out, first, second = int((~there).sum()), first[there], second[there]
    line = Line.through(agree_v[first, second], agree[first, second])
    if line.r2 < least_r2:
        raise Unsupported(
            f"the agreements of {line.pairs} pairs lie on no line (R^2 = {line.r2:.3g} < {least_r2:g}): accuracies "
            "need not lie on one either"
        )
    if variant == "single":
        found = line.slope * known + line.intercept
    else:
        found = _fitted(line.slope, known, agree, agree_v)
    extras = {"slope": line.slope, "intercept": line.intercept, "r2": line.r2, "pairs": line.pairs}
    nowhere = "a model that is right on all validation points, or on none, has no place on the line"
    return [
        Estimate(float(ndtr(-u)), extras={**extras, "left_out": left_out, "validation_error": 1 - right})
        if math.isfinite(u)
        else Estimate.without_value(Status.UNSUPPORTED, nowhere)
        for u, right in zip(found, accuracy.tolist(), strict=True)
    ]


def probits(shares: Array) -> Array:
    """Return the normal quantiles of shares; NaN for 0 and 1, which have none."""
    return np.where((shares > 0) & (shares < 1), ndtri(np.clip(shares, 1e-300, 1 - 1e-16)), np.nan)


def _fitted(slope: float, known: Array, agree: Array, agree_v: Array) -> Array:
    r"""Return the least-squares u of :math:`(u_j + u_l)/2 = r_{jl}` over the pairs that are defined."""
    right = agree + slope * ((known[:, None] + known[None]) / 2 - agree_v)
    there = np.isfinite(right) & ~np.eye(len(known), dtype=bool)
    count = there.sum(1)
    sums = np.array([math.fsum(row[mask]) for row, mask in zip(right, there, strict=True)])
    # Normal equations of the pairs: each model's own number of pairs on the diagonal, 1 beside it for each partner.
    system = (np.diag(count) + there) / 4
    models = count > 0
    found = np.full(len(known), np.nan)
    block = system[np.ix_(models, models)]
    if len(block) < FEWEST or np.linalg.matrix_rank(block) < len(block):
        raise Unsupported("too few pairs of models agree on some points but not all to tell their accuracies apart")
    found[models] = np.linalg.solve(block, sums[models] / 2)
    return found
