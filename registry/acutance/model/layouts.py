"""In which layout a model's convolutions may see images on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Channels that oneDNN's kernels take at once: 8 with AVX2, 16 with AVX-512. The larger counts on every machine, so that
# a surface takes the same path on all.
BLOCK = 16


def writes_past(weight: Sequence[int], stride: Sequence[int]) -> bool:
    """Return whether a convolution must not see images pixel by pixel.

    oneDNN's gradient for the weights of a 1x1 convolution with a stride and fewer input channels than a block writes
    past its memory in that layout (https://github.com/uxlfoundation/oneDNN/issues/6035): it ends the process, or other
    tensors change unseen. Shortcuts of narrow ResNets are such convolutions.

    Args:
        weight: shape of its weight, (C_out, C_in / groups, h, w).
        stride: its strides.
    """
    return set(weight[2:]) == {1} and max(stride) > 1 and weight[1] < BLOCK


def needs_channels_first(model: nn.Module) -> bool:
    """Return whether a module of a model is such a convolution."""
    return any(isinstance(m, nn.Conv2d) and writes_past(m.weight.shape, m.stride) for m in model.modules())


class Convolutions(TorchDispatchMode):
    """Watches a forward pass for a convolution that ``writes_past``, also where no module holds it.

    Attributes:
        needs_channels_first: whether one was seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.needs_channels_first = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler at the first look, which takes seconds; what is looked at is never compiled.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at a convolution's weight and stride."""
        if func is torch.ops.aten.convolution.default and writes_past(args[1].shape, args[3]):
            self.needs_channels_first = True
        return func(*args, **(kwargs or {}))
