"""In which layout a model's convolutions may see images on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Channels that oneDNN's kernels take at once: 8 with AVX2, 16 with AVX-512. The larger counts on every machine, so that
# a surface takes the same path on all.
BLOCK = 16


class Convolutions(TorchDispatchMode):
    """Watches the convolutions of a forward pass for one that must not see images pixel by pixel.

    oneDNN's gradient for the weights of a 1x1 convolution with a stride and fewer input channels than a block writes
    past its memory in that layout (https://github.com/uxlfoundation/oneDNN/issues/6035): it ends the process, or other
    tensors change unseen. Shortcuts of narrow ResNets are such convolutions.

    Attributes:
        needs_channels_first: whether one was seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.needs_channels_first = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look at a convolution's weight, (C_out, C_in / groups, h, w), and stride."""
        if func is torch.ops.aten.convolution.default:
            weight, stride = args[1], args[3]
            if set(weight.shape[2:]) == {1} and max(stride) > 1 and weight.shape[1] < BLOCK:
                self.needs_channels_first = True
        return func(*args, **(kwargs or {}))
