r"""Cross-entropy of very many classes: a few rows of logits at a time, with its derivatives written out.

With :math:`p = \mathrm{softmax}(f)` of one example and c its label

.. math:: l = \log \sum_k e^{f_k} - f_c, \quad \nabla l = p - e_c, \quad \nabla^2 l\, u = p \odot u - p\, (p^\top u).

Exponentials are taken in the type of the logits, sums of them in float64. Beside the logits and what is returned no
more than a block of rows is held, whichever derivative is asked for; automatic differentiation would keep several
copies of all logits in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

MANY = 4096  # classes
LARGE = 1 << 18  # logits
BLOCK = 1 << 20  # logits in a block of rows


def worthwhile(logits: Tensor) -> bool:
    """Return whether logits, (n, K), are so many that copies of them in float64 cost more than a walk over blocks."""
    return logits.dim() == 2 and many(logits)


def many(logits: Tensor) -> bool:
    """Return whether logits, (..., K), are that many."""
    return logits.shape[-1] >= MANY and logits.numel() >= LARGE


def cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`-\log \mathrm{softmax}(f)_y` of each example, (n,) float64, differentiable twice.

    Args:
        logits: (n, K).
        targets: (n,) class indices; below 0 where an example does not count: its loss and all its derivatives are 0,
            whatever its logits are.
    """
    # Half precision has too few digits for probabilities of so many classes.
    terms = logits if logits.dtype == torch.float64 else logits.float()
    losses, _ = _Losses.apply(terms, targets)
    found: Tensor = losses
    return found


def blocks_of_rows(n: int, classes: int) -> Iterator[slice]:
    """Return the rows, some at a time: as many logits as a block holds."""
    step = max(1, BLOCK // classes)
    for start in range(0, n, step):
        yield slice(start, start + step)


def _own(block: Tensor, targets: Tensor) -> Tensor:
    """Return the entries of the labels, (rows, 1); any others where an example does not count."""
    return block.gather(1, targets.clamp_min(0)[:, None])


def _void(rows: Tensor, targets: Tensor) -> Tensor:
    """Write 0 into the rows of examples that do not count, also over what is not finite, and return all."""
    if rows.device.type == "cpu":
        return rows.index_fill_(0, (targets < 0).nonzero()[:, 0], 0.0)  # a mask would be compared with every entry
    return rows.masked_fill_((targets < 0).view(-1, *[1] * (rows.dim() - 1)), 0.0)  # no waiting for how many there are


class RowByRow(Function):
    """A function of rows, which ``vmap`` calls once for each of what it maps over: rows are many already."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *arguments: Tensor) -> tuple[Any, Any]:
        """Return what ``torch.func`` asks for: the results, one upon the other, and that they lie along axis 0."""
        found = [
            cls.apply(*(a if dim is None else a.select(dim, i) for a, dim in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(each) for each in zip(*found, strict=True)), (0,) * len(found[0])


class _Losses(RowByRow):
    """(logits, targets) -> (losses, logarithms of the sums of exponentials), both (n,) float64."""

    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        n, classes = logits.shape
        losses, normal = (torch.empty(n, dtype=torch.float64, device=logits.device) for _ in range(2))
        for rows in blocks_of_rows(n, classes):
            block = logits[rows]
            largest = block.amax(1, keepdim=True)
            total = (block - largest).exp_().sum(1, dtype=torch.float64).log_()
            normal[rows] = total + largest[:, 0]
            losses[rows] = total - (_own(block, targets[rows]) - largest)[:, 0]
        return _void(losses, targets), normal

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, weights: Tensor, _: Tensor) -> tuple[Tensor, None]:
        slope: Tensor = _Slopes.apply(*ctx.saved_tensors, weights)
        return slope, None


class _Slopes(RowByRow):
    """(logits, targets, normal, weights) -> weights_i (p_i - e_y), (n, K)."""

    @staticmethod
    def forward(logits: Tensor, targets: Tensor, normal: Tensor, weights: Tensor) -> Tensor:
        slopes = torch.empty_like(logits)
        for rows in blocks_of_rows(*logits.shape):
            p = _probabilities(logits[rows], normal[rows], out=slopes[rows])
            p.scatter_add_(1, targets[rows, None].clamp_min(0), p.new_full((len(p), 1), -1.0))
            p *= weights[rows, None].to(p)
        return _void(slopes, targets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, None, None, Tensor]:
        logits, targets, normal, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative may be asked for: written so that it can be had, at its price
            p, v = logits.double().softmax(1), u.double()
            inner = (p * v).sum(1)
            product = (weights[:, None] * p * (v - inner[:, None])).to(logits)
            change = inner - _own(v, targets)[:, 0]
            return product.masked_fill(targets[:, None] < 0, 0.0), None, None, change.masked_fill(targets < 0, 0.0)
        products, slopes = torch.empty_like(logits), torch.empty_like(normal)
        for rows in blocks_of_rows(*logits.shape):
            p = _probabilities(logits[rows], normal[rows], out=products[rows])
            inner = (p * u[rows]).sum(1, dtype=torch.float64)
            slopes[rows] = inner - _own(u[rows], targets[rows])[:, 0]
            p *= (u[rows] - inner[:, None].to(u)).mul_(weights[rows, None].to(u))
        return _void(products, targets), None, None, _void(slopes, targets)


def _probabilities(block: Tensor, normal: Tensor, out: Tensor) -> Tensor:
    """Write softmax probabilities of rows, (r, K); the largest logit is taken away first, exactly as in their sum."""
    largest = block.amax(1, keepdim=True)
    torch.sub(block, largest, out=out)
    # What is left of the logarithm of the sum is small, and so exact in the type of the logits.
    return out.sub_((normal[:, None] - largest).to(block)).exp_()
