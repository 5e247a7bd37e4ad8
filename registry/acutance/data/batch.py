"""Batches as users give them: a tensor, a dict of tensors (transformers) or a tuple; first axis the example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import index
from typing import Any, Literal

import torch
from torch import Tensor

from acutance.data.lazy import Lazy
from acutance.errors import UserError

Native = Literal["native"]  # the types that weights are stored in


def take_rows(inputs: Any, rows: slice | Tensor) -> Any:
    """Return these rows of a tensor, or of every tensor in a dict or tuple."""
    if isinstance(inputs, Tensor | Lazy):
        return inputs[rows]
    if isinstance(inputs, Mapping):
        return {key: take_rows(value, rows) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(take_rows(value, rows) for value in inputs)
    return inputs


def floating(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return inputs with every floating-point tensor in them changed, one after the other; the rest as it is."""
    if isinstance(inputs, Mapping):
        return {key: floating(value, change) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(floating(value, change) for value in inputs)
    return change(inputs) if isinstance(inputs, Tensor) and inputs.is_floating_point() else inputs


def tensor(value: object, name: str) -> Tensor:
    """Return a tensor as it is.

    Raises:
        UserError: for anything else.
    """
    if not isinstance(value, Tensor):
        raise UserError(f"{name} must be a tensor, got {type(value).__name__}", f"give torch.as_tensor({name})")
    return value


def whole(value: object, name: str) -> int:
    """Return a number of things as it is.

    Raises:
        UserError: for anything but a whole number of at least 1.
    """
    try:
        number = 0 if isinstance(value, bool | Tensor) else index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise UserError(f"{name}: must be a whole number of at least 1, got {value!r}")
    return number


def channels_last(inputs: Any) -> Any:
    """Return inputs with every batch of float32 images, (n, C, H, W), laid out pixel by pixel; others as they are.

    Convolutions on a CPU work in this layout, and otherwise go there and back at every layer.
    """
    return _each_image(inputs, _by_pixel)


def channels_first(inputs: Any) -> Any:
    """Return inputs with every batch of float32 images laid out channel by channel; others as they are."""
    return _each_image(inputs, _by_channel)


def _each_image(inputs: Any, lay_out: Callable[[Tensor], Tensor]) -> Any:
    """Return inputs with every batch of float32 images in them laid out anew."""
    if isinstance(inputs, Lazy):
        return inputs.then(partial(_each_image, lay_out=lay_out))
    if isinstance(inputs, Mapping):
        return {key: _each_image(value, lay_out) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_each_image(value, lay_out) for value in inputs)
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.dtype != torch.float32:
        return inputs
    return lay_out(inputs)


# With strides written out: of one channel, torch takes either layout for the other.


def _by_pixel(images: Tensor) -> Tensor:
    _, c, h, w = images.shape
    return torch.empty_strided(images.shape, (c * h * w, 1, w * c, c), device=images.device).copy_(images)


def _by_channel(images: Tensor) -> Tensor:
    _, c, h, w = images.shape
    strides = (c * h * w, h * w, w, 1)
    if images.stride() == strides:
        return images
    return torch.empty_strided(images.shape, strides, device=images.device).copy_(images)


def length_of(inputs: Any) -> int | None:
    """Return the number of examples, or None where nothing says.

    Raises:
        UserError: when the parts disagree.
    """
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.dim() else None
    if isinstance(inputs, Lazy):
        return len(inputs)
    if not isinstance(inputs, Mapping | tuple | list):
        return None
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    lengths = {length_of(value) for value in values} - {None}
    if len(lengths) > 1:
        raise UserError(f"the inputs have different numbers of examples: {', '.join(sorted(map(str, lengths)))}")
    return lengths.pop() if lengths else None


def dtype_of(name: str) -> torch.dtype | Native:
    """Return the torch dtype of a name; ``native``, the types that weights are stored in, stands for itself.

    Raises:
        UserError: for anything but float32, float64 and native.
    """
    dtypes: dict[str, torch.dtype | Native] = {"float32": torch.float32, "float64": torch.float64, "native": "native"}
    if name not in dtypes:
        raise UserError(f"dtype: '{name}' is not supported", "choose float32, float64 or native")
    return dtypes[name]
