"""The parts of networks that are positively homogeneous, so that a sum over paths says what they do."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from acutance.data.lazy import Lazy
from acutance.errors import Unsupported
from acutance_classic.weights.weight_matrices import CONVOLUTIONS, TRANSPOSED

if TYPE_CHECKING:
    from acutance.surface import LossSurface

LINEAR = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # in evaluation mode
POOLS = tuple(
    getattr(nn, f"{kind}Pool{axes}d") for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for axes in (1, 2, 3)
)
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Flatten, nn.Unflatten, nn.ZeroPad2d, nn.PixelShuffle, *POOLS)
# Functions and methods that are linear with weights 0 and 1, averages, maxima, or ReLU; names as torch has them.
OPERATIONS = {
    "relu", "relu_", "leaky_relu", "add", "iadd", "add_", "sum", "mean", "cat", "concat", "stack", "flatten", "reshape",
    "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "getitem", "amax", "chunk", "split", "pad",
    "size", "dim", "getattr",
    *(f"{kind}_pool{axes}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for axes in (1, 2, 3)),
}  # fmt: skip
IDLE_OPERATIONS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_"}


def tensor(output: Any) -> Tensor:
    """Return what a model returns, where it is one tensor."""
    if not isinstance(output, Tensor):
        raise Unsupported("the path norm is not defined: the model does not return its logits as one tensor")
    return output


def applied(layer: nn.Module, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return what a layer would give with other weights: of a copy, without the hooks that listen to it."""
    other = copy.copy(layer)
    vars(other)["_parameters"] = {"weight": weight, "bias": bias}
    output: Tensor = other.forward(x)
    return output


def operated(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Return what a function or a method gives, where it is positively homogeneous; sizes may be computed at will."""
    target: Any = node.target
    name = target if isinstance(target, str) else target.__name__
    parts: list[Any] = []
    map_aggregate((args, kwargs), parts.append)
    constants = [part for part in parts if not isinstance(part, Tensor)]
    if len(constants) < len(parts):
        if name in IDLE_OPERATIONS:
            return args[0]
        adds = name in ("add", "iadd", "add_") and any(part != 0 for part in constants)
        pads = name == "pad" and (kwargs.get("value") or args[3:] not in ((), (0,), (0.0,), (None,)))
        if name not in OPERATIONS or adds or pads:
            what = (
                f"a constant is added ({name})"
                if adds or pads
                else f"'{name}' is not positively homogeneous, or unknown"
            )
            raise Unsupported(f"the path norm is not defined: {what}")
    return getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)


def first_points(surface: LossSurface, most: int = 2) -> Tensor:
    """Return the inputs of the first points, (k, ...).

    Raises:
        Unsupported: where they are no tensor of real numbers, so that there are no ones to pass.
    """
    inputs = surface.inputs[: min(most, surface.n)] if isinstance(surface.inputs, Lazy | Tensor) else None
    x = inputs.now() if isinstance(inputs, Lazy) else inputs
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise Unsupported("the path norm is not defined: it passes ones, and the inputs are no tensor of real numbers")
    return x
