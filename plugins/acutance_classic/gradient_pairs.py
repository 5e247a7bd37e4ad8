"""Inner products of the gradients of single examples, pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.surface import LossSurface

HELD = 4 << 30  # bytes of gradients that are held together for their inner products
BLOCK = 1 << 20  # parameters of a block of them that is taken in float64


@torch.no_grad()
def inner_products(view: LossSurface, examples: int) -> Tensor:
    """Return the inner products of the gradients of the first examples, (k, k) float64.

    Raises:
        Unsupported: where they do not fit the memory that is meant for them.
    """
    p, k = view.w.numel(), min(examples, view.n)
    row = p * view.w.element_size()
    if k * row > HELD:
        raise Unsupported(
            f"the gradients of {k} examples take {k * row / 2**30:.3g} GiB: lower examples to {max(HELD // row, 2)}, "
            "or take a part of the parameters"
        )
    rows = torch.empty(k, p, dtype=view.w.dtype, device=view.w.device)
    start = 0
    for chunk in view.example_gradients(chunk=min(k, view.microbatch or 32)):
        end = min(start + len(chunk), k)
        rows[start:end] = chunk[: end - start]
        start = end
        if start == k:
            break
    blocks = (block.double() for block in rows.split(BLOCK, dim=1))
    return sum((block @ block.T for block in blocks), torch.zeros(k, k, dtype=torch.float64, device=rows.device))


def smallest_of_pairs(products: Tensor, directions: bool) -> tuple[float | None, int]:
    """Return the smallest inner product of two different examples, and how many were left out; None without a pair.

    Args:
        products: (k, k) of their gradients.
        directions: of the directions instead; examples without a gradient have none, and are left out.
    """
    still = 0
    if directions:
        norms = products.diagonal().sqrt()
        moving = norms != 0
        still = int((~moving).sum())
        products = (products / norms.outer(norms))[moving][:, moving]
    if len(products) < 2:
        return None, still
    own = torch.eye(len(products), dtype=torch.bool, device=products.device)
    return float(products.masked_fill(own, torch.inf).min()), still
