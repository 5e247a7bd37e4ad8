"""Norms of a matrix of predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

COLUMNS = 128
SMALLEST = 1e-10  # ratio of eigenvalues of the Gram matrix above which their square roots have about nine digits


def taylor_probabilities(logits: Tensor) -> Tensor:
    """Return 1 + z + z^2/2, less the smallest of each point, divided by its sum, (n, K)."""
    q = (logits * 0.5).add_(1.0).mul_(logits)
    q -= q.amin(1, keepdim=True)
    total = q.sum(1, keepdim=True)
    if bool((total > 0).all()):
        return q.div_(total)
    return torch.where(total > 0, q / total, 1 / logits.shape[1])


def power_mean(parts: Iterable[Tensor], p: float) -> float:
    """Return the p-th root of the mean p-th power of the entries, not negative, of the parts of a matrix.

    Powers are taken of the entries over the largest one so far, so that none of those that count underflows.
    """
    largest, total, count = 0.0, 0.0, 0
    for q in parts:
        top = float(q.amax())
        if top > largest:
            largest, total = top, total * (largest / top) ** p
        if largest > 0:
            scaled = q / largest
            if p == 4:  # the usual one: a product takes a tenth of the time of a power
                scaled *= scaled
                total += float(torch.linalg.vecdot(scaled, scaled).sum())
            else:
                total += float(scaled.pow_(p).sum())
        count += q.numel()
    return largest * math.pow(total / count, 1 / p)


def nuclear_norm(matrix: Tensor) -> float:
    """Return the sum of the singular values.

    They are square roots of the eigenvalues of the smaller Gram matrix, in a fraction of the time, unless some are so
    small that their roots would be rounding.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    values = torch.linalg.eigvalsh(_lower_gram(matrix))
    if float(values[0]) > SMALLEST * float(values[-1]):
        return float(values.sqrt().sum())
    return float(torch.linalg.svdvals(torch.linalg.qr(matrix, mode="r").R).sum())


def _lower_gram(matrix: Tensor) -> Tensor:
    """Return the lower triangle of A^T A, some columns at a time: a little more than half of the products."""
    k = matrix.shape[1]
    gram = matrix.new_zeros(k, k)
    for start in range(0, k, COLUMNS):
        own = slice(start, start + COLUMNS)
        torch.matmul(matrix[:, start:].T, matrix[:, own], out=gram[start:, own])
    return gram
