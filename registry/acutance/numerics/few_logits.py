r"""Cross-entropy of few logits on the CPU, with its gradient, and their error: each in one compiled walk.

With :math:`p = \mathrm{softmax}(f)` of each of n examples and c its label

.. math:: L = \frac1n \sum_i \big(\log \sum_k e^{f_{ik}} - f_{i c_i}\big), \qquad
   \nabla_{f_i} L = \tfrac1n (p_i - e_{c_i}).

Automatic differentiation makes a dozen calls of torch for it, which cost more than the arithmetic, and a good part of
what a pass through a small model does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from acutance.numerics.kernels import kernels

FEW = 1 << 14  # logits: of more of them torch's own exponentials are the faster ones


def few(logits: Tensor, targets: Tensor) -> bool:
    """Return whether logits, (n, K), are so few, each row with a class index, and plain numbers, not differentiated."""
    return (
        logits.is_cpu
        and logits.dim() == 2
        and 0 < logits.numel() <= FEW
        and not logits.requires_grad
        and logits.dtype in (torch.float32, torch.float64)
        and targets.shape == logits.shape[:1]
        and targets.dtype == torch.int64
        and type(logits) is Tensor
        and logits.is_contiguous()
        and not logits.is_neg()
        and forward_ad._current_level < 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(logits)
        and kernels() is not None
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss, 0-d float64, and its gradient in the logits, (n, K); NaN where the loss is no number.

    Args:
        logits: (n, K), of which ``few`` holds.
        targets: (n,) class indices.

    Raises:
        IndexError: for an index that is none of a class, as torch does.
    """
    gradient = torch.empty_like(logits)
    value = kernels().cross_entropy(logits.numpy(), targets.numpy(), gradient.numpy())
    if not math.isfinite(value):
        gradient.fill_(torch.nan)
    return torch.scalar_tensor(value, dtype=torch.float64), gradient


def mean_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of examples whose largest logit is not the label's, 0-d float64; NaN where one predicts nothing.

    Args:
        logits: (n, K), of which ``few`` holds.
        targets: (n,) class indices.
    """
    return torch.scalar_tensor(kernels().mean_error(logits.numpy(), targets.numpy()), dtype=torch.float64)
