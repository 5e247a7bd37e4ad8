"""Whether a network is positively homogeneous in its weights: what closed forms of scale-free measures rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from acutance.errors import Unsupported, some

if TYPE_CHECKING:
    from acutance.surface import LossSurface

FACTOR = 1.25  # by which the weights are multiplied to see it
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the logits, relative to their norm
NORMALIZATION = (
    nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


def degree(view: LossSurface) -> int:
    r"""Return n of :math:`f(a w) = a^n f(w)`, the number of weight layers, from one more forward.

    Raises:
        Unsupported: with biases or normalization, and where the logits at a multiple of the weights are others: a
            smooth activation, a residual path, a weight that serves twice.
    """
    others = [name for name, _, shape, _ in view.layers if len(shape) < 2]
    if others:
        raise Unsupported(
            f"{some(others)}: biases and normalization are not of the degree of the weights, so that the network "
            "is not homogeneous; 'parameters' may leave them out where they are zero"
        )
    normalizing = [name for name, module in view.model.named_modules() if isinstance(module, NORMALIZATION)]
    if normalizing:
        raise Unsupported(f"{some(normalizing)}: normalization makes the network not homogeneous in its weights")
    n = len(view.layers)
    expected = view.clean().raw.double() * FACTOR**n
    found = view.raw_logits(view.w * FACTOR).double()
    size = torch.linalg.vector_norm(expected)
    if not bool(torch.linalg.vector_norm(found - expected) <= TOLERANCE[view.w.dtype] * size):
        raise Unsupported(
            f"with {n} weight layers the logits at {FACTOR:g} w should be {FACTOR:g}^{n} times those at w: a "
            "bias, a smooth activation, a residual path or a weight that serves twice"
        )
    return n
