"""Distances of weight vectors, summed in float64 whatever their dtype."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_predictions.training.checkpoints import HELD, Walk

BLOCK = 1 << 20  # entries that are taken in float64 at a time


def distance(a: Tensor, b: Tensor) -> float:
    r"""Return :math:`\|a - b\|_2` of two vectors, (p,)."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in zip(a.split(BLOCK), b.split(BLOCK), strict=True):
        total += (x.double() - y.double()).square().sum()
    return float(total.sqrt())


def distances(walk: Walk) -> tuple[np.ndarray, Unsupported | None]:
    r"""Return :math:`\|w_i - w_j\|_2` of all points of a walk, and why it breaks off where it does.

    ``HELD`` vectors are kept at a time: each is compared with those after it, which are opened one after another, so
    that of T points about T^2 / (2 HELD) are opened.

    Returns:
        (T, T), and None where it does not break off.
    """
    count, broken = len(walk), None
    table = np.zeros((count, count))
    start = 0
    while start < count:
        held: list[Tensor] = []
        points, j = walk.points(start), start
        while j < count:
            try:
                _, w = next(points)
            except Unsupported as error:
                count, broken = j, error
                break
            for i, other in enumerate(held, start):
                table[i, j] = table[j, i] = distance(other, w)
            if len(held) < HELD:
                held.append(w)
            j += 1
        start += HELD
    return table[:count, :count], broken
