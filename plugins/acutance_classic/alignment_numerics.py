"""The cosines between the last layer's weights and single examples' gradients in them, and their kurtosis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.surface import LossSurface

EQUAL = 1e-14  # values that differ by less, relative to their size, are equal


@torch.no_grad()
def weight_alignments(surface: LossSurface) -> Tensor:
    """Return the cosine of the last layer's weights and minus each example's gradient in them, (k,) float64.

    Raises:
        Unsupported: where the targets are no classes, or no example has such a gradient.
    """
    if not surface.classifies:
        raise Unsupported("the alignment is that of the cross-entropy of classes, and the loss is another one")
    layer = surface.last_layer()
    features, weight = layer.features.double(), layer.weight.double()
    label = torch.nn.functional.one_hot(surface.targets, len(weight)).bool()
    p = surface.clean().raw.double().softmax(1)
    others = p.masked_fill(label, 0.0)
    # 1 - p_y as the sum of the others: it does not vanish where p_y rounds to 1.
    residual = torch.where(label, -others.sum(1, keepdim=True), others)
    lengths = features.norm(dim=1) * residual.norm(dim=1) * weight.norm()
    if not bool((lengths != 0).any()):
        why = "all are predicted with probability exactly 1"
        if not bool(weight.any()):
            why = "its weights are all zero, so that they have no direction"
        elif not bool(features.any()):
            why = "what goes into it is zero for all of them"
        raise Unsupported(f"no example has an alignment with the last layer: {why}")
    cosines: Tensor = -(features * (residual @ weight)).sum(1) / lengths
    return cosines[lengths != 0]


def mean_and_kurtosis(values: Tensor) -> tuple[float, float]:
    r"""Return the mean, and the excess kurtosis :math:`m_4 / m_2^2 - 3` of central moments; NaN for equal values."""
    d = values - values.mean()
    square = d.square().mean()
    if float(square) <= EQUAL**2 * float(values.square().mean()):
        return float(values.mean()), math.nan
    return float(values.mean()), float(d.pow(4).mean() / square.square()) - 3
