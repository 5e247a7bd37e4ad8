"""Networks that are a chain of linear layers: what of their weights and statistics each order of neurons moves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from acutance.errors import Unsupported

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What treats all neurons alike, and each by itself, so that it commutes with their order.
ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.Identity, nn.Dropout, nn.Flatten,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip


@dataclass(frozen=True)
class Moved:
    """What the order of the neurons of one hidden layer moves.

    Attributes:
        size: neurons, or channels.
        weight: name of the weights that make them, by their first dimension.
        along: parameters and buffers with an entry for each, beside those weights: biases, what normalizes them.
        reader: name of the weights that read them, by their second dimension; after a Flatten, several columns each.
    """

    size: int
    weight: str
    along: tuple[str, ...]
    reader: str


def chain(model: nn.Module) -> list[Moved]:
    """Return the hidden layers of a chain, first to last.

    Raises:
        Unsupported: for anything but nested ``Sequential`` of linear layers, convolutions in one group, batch
            normalization, pooling, and activations of each neuron by itself, every module once and without hooks.
    """
    made: list[tuple[str, nn.Module, list[str]]] = []
    seen: set[int] = set()
    for name, module in _steps("", model):
        kind = type(module)
        again = id(module) in seen or any(id(p) in seen for p in module.parameters())
        if again or module._forward_hooks or module._forward_pre_hooks:
            raise _other(f"module '{name}' is used twice, shares weights or has hooks")
        seen |= {id(module), *map(id, module.parameters())}
        if kind in LINEAR:
            if getattr(module, "groups", 1) != 1:
                raise _other(f"convolution '{name}' has groups")
            made.append((name, module, [f"{name}.bias"] if module.bias is not None else []))
        elif kind in NORMS:
            if made:  # before the first layer it normalizes the inputs, which have an order of their own
                own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                made[-1][2].extend(f"{name}.{entry}" for entry, tensor in own.items() if tensor.ndim == 1)
        elif kind not in ELEMENTWISE:
            raise _other(f"module '{name}' is a {kind.__name__}")
    if len(made) < 2:
        raise _other("it has no hidden layer")
    return [
        Moved(int(layer.weight.shape[0]), f"{name}.weight", tuple(along), f"{following}.weight")  # type: ignore[index]
        for (name, layer, along), (following, _, _) in itertools.pairwise(made)
    ]


def _steps(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules in the order in which an input passes them, with their names."""
    if type(module) is not nn.Sequential:
        yield name, module
        return
    if module._forward_hooks or module._forward_pre_hooks:
        raise _other(f"module '{name}' has hooks")
    if len(module) != len(list(module.children())):
        raise _other(f"a module of '{name}' is used twice")
    for child, part in module.named_children():
        yield from _steps(f"{name}.{child}" if name else child, part)


def _other(found: str) -> Unsupported:
    return Unsupported(
        f"neurons are matched in chains alone, Sequential models of Linear, Conv and BatchNorm layers with elementwise "
        f"activations, and here {found}: measure 'alignment: none'"
    )
