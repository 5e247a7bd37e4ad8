"""Distances to the nearest points, in blocks, and the dimensions that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor

from acutance.errors import Unsupported

BLOCK = 2**23  # squared distances held at once
SPARE = 8  # candidates more than needed, for the rounding of squared distances by a product


def precision(w: Tensor) -> float:
    """Return the relative precision of numbers computed with these weights."""
    return float(torch.finfo(w.dtype).eps)


@torch.no_grad()
def nearest(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices of the k nearest other points of each, (n, k), nearest first; ties by index.

    Candidates come from squared norms and a matrix product; their distances are computed again from differences,
    since the product loses the digits of near neighbours.
    """
    z = points - points.mean(0)
    squares, n = z.square().sum(1), len(z)
    count = min(k + SPARE, n - 1)
    distances, indices = [], []
    for rows in torch.arange(n, device=z.device).split(max(1, BLOCK // max(n, count * z.shape[1]))):
        squared = squares[rows, None] + squares - 2 * z[rows] @ z.T
        squared[torch.arange(len(rows)), rows] = torch.inf
        candidates = squared.topk(count, dim=1, largest=False).indices.sort(1).values
        exact = torch.linalg.vector_norm(z[candidates] - z[rows, None], dim=2)
        ordered, places = exact.sort(dim=1, stable=True)
        distances.append(ordered[:, :k])
        indices.append(candidates.gather(1, places[:, :k]))
    return torch.cat(distances), torch.cat(indices)


def of_distinct(points: Tensor, k: int, tolerance: float) -> tuple[Tensor | None, int]:
    """Return the distances of each different point to its k nearest, None where they are too few, and their number.

    Args:
        points: (n, d).
        k: how many neighbours.
        tolerance: points no further apart than this are the same one.
    """
    different = torch.unique(points, dim=0)
    while len(different) > k:
        distances, indices = nearest(different, k)
        # Of points that differ by rounding the first stays.
        doubles = (distances[:, 0] <= tolerance) & (indices[:, 0] < torch.arange(len(different), device=points.device))
        if not bool(doubles.any()):
            return distances, len(different)
        different = different[~doubles]
    return None, len(different)


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
