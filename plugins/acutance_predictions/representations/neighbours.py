"""Distances to the nearest points, in blocks, and the dimensions that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.errors import Unsupported

BLOCK = 2**23  # squared distances held at once
SPARE = 8  # candidates more than needed
DOUBLE, RESOLVED = 4, 8  # in roundings of a pair: no further apart, one point; from there on, a distance is known


def precision(kind: torch.dtype) -> float:
    """Return the relative precision of numbers computed with weights of a type."""
    return float(torch.finfo(kind).eps)


@torch.no_grad()
def nearest(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices of the k nearest other points of each, (n, k), nearest first; ties by index.

    Candidates come from squared norms and a matrix product, less what these may have lost, and their distances from
    differences. Where a point outside may still be nearer than one of them, all distances come from differences.
    """
    z = points - points.median(0).values  # the mean of points one of which is far away lies far from all
    squares, n = z.square().sum(1), len(z)
    slack = 8 * math.sqrt(z.shape[1]) * torch.finfo(z.dtype).eps
    count = min(k + SPARE, n - 1)
    distances, indices = [], []
    for rows in torch.arange(n, device=z.device).split(max(1, BLOCK // max(n, count * z.shape[1]))):
        sums = squares[rows, None] + squares
        least = sums * (1 - slack) - 2 * z[rows] @ z.T
        least[torch.arange(len(rows)), rows] = torch.inf
        outside, candidates = least.topk(min(count + 1, n - 1), dim=1, largest=False)
        candidates = candidates.sort(1).values
        ordered, places = torch.linalg.vector_norm(z[candidates] - z[rows, None], dim=2).sort(dim=1, stable=True)
        found, where = ordered[:, :k], candidates.gather(1, places[:, :k])
        if count < n - 1:
            farthest = found[:, -1]
            doubtful = (farthest.square() > outside[:, -1]) & (farthest > 0)
            found[doubtful], where[doubtful] = _nearest_by_differences(z, rows[doubtful], k)
        distances.append(found)
        indices.append(where)
    return torch.cat(distances), torch.cat(indices)


def _nearest_by_differences(z: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices of the k nearest other points of some rows."""
    found = torch.cdist(z[rows], z, compute_mode="donot_use_mm_for_euclid_dist")
    found[torch.arange(len(rows)), rows] = torch.inf
    ordered, places = found.sort(dim=1, stable=True)
    return ordered[:, :k], places[:, :k]


def roundings(points: Tensor, indices: Tensor, precision: float) -> Tensor:
    """Return how far points and their partners may lie apart by the rounding of the features that differ, (n,)."""
    others = points[indices]
    sizes = torch.maximum(points.abs(), others.abs()).masked_fill(points == others, 0.0)
    found: Tensor = precision * torch.linalg.vector_norm(sizes, dim=1)
    return found


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Distances between different points.

    Attributes:
        points: how many there are.
        distances: of each to its k nearest, (points, k), nearest first; None where they are too few.
        unresolved: share of the points whose nearest one is hardly further away than rounding.
    """

    points: int
    distances: Tensor | None
    unresolved: float


def of_distinct(points: Tensor, k: int, precision: float) -> Neighbours:
    """Return the distances of each different point to its k nearest.

    Args:
        points: (n, d).
        k: how many neighbours.
        precision: relative one of the features: two points are one where each feature that differs does by so little.
    """
    different = torch.unique(points, dim=0)
    while len(different) > k:
        distances, indices = nearest(different, k)
        first, rounding = distances[:, 0], roundings(different, indices[:, 0], precision)
        # Of points that differ by rounding the first stays.
        doubles = (first <= DOUBLE * rounding) & (indices[:, 0] < torch.arange(len(different), device=points.device))
        if not bool(doubles.any()):
            return Neighbours(len(different), distances, float((first <= RESOLVED * rounding).double().mean()))
        different = different[~doubles]
    return Neighbours(len(different), None, 0.0)


def _inverse(mean: float) -> float:
    if mean == 0:
        raise Unsupported("all neighbours of each point are equally far away, as on a lattice: there is no dimension")
    return 1 / mean


def maximum_likelihood(distances: Tensor) -> float:
    r"""Return :math:`\big(\frac{1}{n(k-1)} \sum_i \sum_{j<k} \log(r_{ik}/r_{ij})\big)^{-1}`."""
    return _inverse(float((distances[:, -1:] / distances[:, :-1]).log().mean()))


def ratio_likelihood(distances: Tensor) -> float:
    r"""Return :math:`n / \sum_i \log \mu_i`."""
    return _inverse(float((distances[:, 1] / distances[:, 0]).log().mean()))


def ratio_line(distances: Tensor, discard: float) -> float:
    r"""Return the slope through the origin of :math:`-\log(1 - F)` over :math:`\log \mu`, without the largest ratios.

    :math:`F = i/n` for the ratio with i smaller ones, i from 0.
    """
    n = len(distances)
    kept = int(n * (1 - discard))
    if kept < 2:
        raise Unsupported(f"of {n} different points {kept} are left for the line: give more points, or discard fewer")
    x = (distances[:, 1] / distances[:, 0]).log().sort().values[:kept]
    y = -torch.log1p(-torch.arange(kept, dtype=x.dtype, device=x.device) / n)
    return float(x @ y) * _inverse(float(x @ x))
