"""Distances of weight vectors, summed in float64 whatever their dtype."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 20  # entries that are taken in float64 at a time


def distance(a: Tensor, b: Tensor) -> float:
    r"""Return :math:`\|a - b\|_2` of two vectors, (p,)."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in zip(a.split(BLOCK), b.split(BLOCK), strict=True):
        total += (x.double() - y.double()).square().sum()
    return float(total.sqrt())
