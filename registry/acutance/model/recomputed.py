"""Activation checkpointing: layers of transformers keep their inputs alone, and are made again in the backward pass.

What transformers checkpoints itself it does in training mode alone, where dropout is on; here the same layers are
checkpointed in evaluation mode (``torch.utils.checkpoint``, not reentrant; Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from acutance.errors import UserError

LAYER = "GradientCheckpointingLayer"  # the class of transformers from which layers that may be made again come
NONE = (
    "checkpointing: {} has no layers that can be made again",
    "leave it out, or set microbatch: layers of transformers that support gradient checkpointing can",
)


class Recomputation:
    """The layers of a model whose activations are not kept in a pass with a backward, while that is switched on.

    Args:
        model: of transformers, or with such a model inside.

    Attributes:
        layers: those that come from transformers' own class, the outer ones alone.
        on: whether they are made again now.

    Raises:
        UserError: for a model without any.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = list(_outer_layers(model))
        self.on = False
        if not self.layers:
            raise UserError(NONE[0].format(type(model).__name__), NONE[1])

    def forward_of(self, layer: nn.Module) -> Callable[..., Any]:
        """Return what stands for a layer's forward while the model holds other weights."""
        there = vars(layer).get("forward")
        if isinstance(there, partial) and there.func == self._forward:
            return there
        return partial(self._forward, layer.forward)

    def _forward(self, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if not (self.on and torch.is_grad_enabled()):
            return forward(*arguments, **named)
        # A cache of keys and values, empty in a pass over whole texts, would be written to twice.
        arguments = tuple(None if _is_cache(a) else a for a in arguments)
        named = {name: None if _is_cache(a) else a for name, a in named.items()}
        return checkpoint(partial(forward, **named), *arguments, use_reentrant=False, preserve_rng_state=False)

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Make the layers again in the backward passes of this context, which has to hold these too."""
        before, self.on = self.on, True
        try:
            yield
        finally:
            self.on = before


def _outer_layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if any(base.__name__ == LAYER for base in type(child).__mro__):
            yield child
        else:
            yield from _outer_layers(child)


def _is_cache(value: object) -> bool:
    return any(base.__name__ == "Cache" for base in type(value).__mro__)
