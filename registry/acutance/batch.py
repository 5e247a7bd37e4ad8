"""Batches as users give them: a tensor, a dict of tensors (transformers) or a tuple; first axis the example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from acutance.errors import UserError
from acutance.lazy import Lazy


def take_rows(inputs: Any, rows: slice | Tensor) -> Any:
    """Return these rows of a tensor, or of every tensor in a dict or tuple."""
    if isinstance(inputs, Tensor | Lazy):
        return inputs[rows]
    if isinstance(inputs, dict):
        return {key: take_rows(value, rows) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(take_rows(value, rows) for value in inputs)
    return inputs


def channels_last(inputs: Any) -> Any:
    """Return inputs with every batch of float32 images, (n, C, H, W), laid out pixel by pixel; others as they are.

    Convolutions on a CPU work in this layout, and otherwise go there and back at every layer.
    """
    if isinstance(inputs, Lazy):
        return inputs.then(channels_last)
    if isinstance(inputs, dict):
        return {key: channels_last(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(channels_last(value) for value in inputs)
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.dtype != torch.float32:
        return inputs
    _, c, h, w = inputs.shape
    # With strides written out: of one channel, torch takes either layout for the other.
    return torch.empty_strided(inputs.shape, (c * h * w, 1, w * c, c), device=inputs.device).copy_(inputs)


def length_of(inputs: Any) -> int | None:
    """Return the number of examples, or None where nothing says.

    Raises:
        UserError: when the parts disagree.
    """
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.dim() else None
    if isinstance(inputs, Lazy):
        return len(inputs)
    values = inputs.values() if hasattr(inputs, "values") else inputs
    lengths = {length_of(value) for value in values} - {None}
    if len(lengths) > 1:
        raise UserError(f"the inputs have different numbers of examples: {sorted(map(str, lengths))}")
    return lengths.pop() if lengths else None


def dtype_of(name: str) -> torch.dtype:
    """Return the torch dtype of a name.

    Raises:
        UserError: for anything but float32 and float64.
    """
    known = {"float32": torch.float32, "float64": torch.float64}
    if name not in known:
        raise UserError(f"dtype: '{name}' is not supported", "choose float32 or float64")
    return known[name]
