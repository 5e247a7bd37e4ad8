"""The empirical neural tangent kernel of some points, class by class and block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_predictions.representations.tangent import CHUNK, ROWS

if TYPE_CHECKING:
    from acutance.surface import LossSurface

HELD = 2 << 30  # bytes of gradients that are held for their products with the others
COLUMNS = 1 << 18  # parameters that are taken in float64 at a time
MOST = 10**6  # gradients of single logits: hours of a CPU for a small convolutional network
# Of a kernel that is the same for all pairs of points, centring leaves the rounding of the gradients.
ROUNDING = 64


def gradients_of(n: int, classes: int, rows: int) -> int:
    """Return how many gradients of single logits the kernel of n points takes, with blocks of some rows held.

    Each block meets itself and the blocks after it.
    """
    return classes * sum(n - start for start in range(0, n, rows))


def tangent_kernel(view: LossSurface, classes: int) -> Tensor:
    r"""Return :math:`K_{ij} = \sum_k \langle \nabla_w f_k(x_i), \nabla_w f_k(x_j) \rangle`, (n, n) float64.

    Args:
        view: with the parameters that are meant.
        classes: how many logits there are.

    Raises:
        Unsupported: where it would take too many gradients; the sentence says how many points may be taken.
    """
    n, p = view.n, view.w.numel()
    rows = max(1, min(ROWS, HELD // (p * view.w.element_size())))
    _refuse_too_many(n, classes, rows)
    kernel = torch.zeros(n, n, dtype=torch.float64, device=view.w.device)
    u = torch.zeros(n, classes, dtype=torch.float64, device=view.w.device)
    for k in range(classes):
        u.zero_()[:, k] = 1.0
        for start in range(0, n, rows):
            _add_block(kernel, view, u, start, min(start + rows, n))
    # Blocks were added on and above the diagonal; within a block both halves, up to the order of sums.
    upper = kernel.triu()
    return upper + upper.triu(1).T


def _refuse_too_many(n: int, classes: int, rows: int) -> None:
    made = gradients_of(n, classes, rows)
    if made <= MOST:
        return
    few, many = 0, n
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if gradients_of(middle, classes, rows) <= MOST else (few, middle)
    held = f", of which {rows} fit the memory that is meant for them" if rows < ROWS else ""
    raise Unsupported(
        f"the tangent kernel of {n} points and {classes} logits takes {made} gradients{held}: take "
        + (f"{few} points at most" if few > 1 else "a model with fewer logits")
    )


@torch.no_grad()
def _add_block(kernel: Tensor, view: LossSurface, u: Tensor, start: int, end: int) -> None:
    """Add, for the rows from start to end, their products with themselves and all later rows."""
    block = torch.empty(end - start, view.w.numel(), dtype=view.w.dtype, device=view.w.device)
    at = start
    for chunk in view.example_gradients(chunk=min(CHUNK, end - start, view.microbatch or CHUNK), u=u, start=start):
        after = at + len(chunk)
        if at < end:
            block[at - start : after - start] = chunk[: end - at]
        known = min(after, end) - start  # rows of the block that are there by now
        for mine, theirs in zip(block[:known].split(COLUMNS, 1), chunk.split(COLUMNS, 1), strict=True):
            kernel[start : start + known, at:after] += mine.double() @ theirs.double().T
        at = after


def centred(kernel: Tensor) -> Tensor:
    r"""Return :math:`(I - \tfrac1n 1 1^\top) A (I - \tfrac1n 1 1^\top)` of a symmetric matrix."""
    mean = kernel.mean(0)
    return kernel - mean - mean[:, None] + mean.mean()


def alignment(kernel: Tensor, one_hot: Tensor, precision: float) -> float:
    """Return the alignment of a centred kernel, (n, n), with that of the labels.

    Args:
        kernel: finite.
        one_hot: (n, K) labels of two classes at least.
        precision: of the gradients, relative to their size.

    Raises:
        Unsupported: where the kernel is the same for all pairs of points.
    """
    largest = kernel.abs().max()
    k = centred(kernel / largest) if largest > 0 else kernel
    if bool(k.norm() <= ROUNDING * precision * len(k)):
        raise Unsupported("the tangent kernel is the same for all pairs of points, so nothing of it is left centred")
    y = centred(one_hot @ one_hot.T)
    return float((k * y).sum() / (k.norm() * y.norm()))
