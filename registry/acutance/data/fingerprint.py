"""Fingerprints of tensors: what a model and a batch *are*, whatever file or device they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from acutance.data.lazy import Lazy


def _update(hasher: Any, value: Any) -> None:
    """Feed a tensor, or a dict or sequence of tensors, to a hash in canonical form."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        hasher.update(f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    elif isinstance(value, Lazy):
        _update_lazily(hasher, value)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            hasher.update(f"\x1f{key}\x1f".encode())
            _update(hasher, value[key])
    elif isinstance(value, tuple | list):
        for item in value:
            hasher.update(b"\x1e")
            _update(hasher, item)
    else:
        hasher.update(repr(value).encode())


def _update_lazily(hasher: Any, value: Lazy) -> None:
    """Feed what would be one tensor part by part: the digest is that of the whole."""
    for i, part in enumerate(value.chunks()):
        tensor = part.detach().cpu().contiguous()
        if i == 0:
            shape = (len(value), *tensor.shape[1:])
            hasher.update(f"{str(tensor.dtype).removeprefix('torch.')}{shape}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy())


def _single(value: Any) -> Any:
    """Floating-point tensors as float32, so that a float64 evaluation is one of the same points."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value.long()
    if isinstance(value, Lazy):
        return value.then(_single)
    if isinstance(value, Mapping):
        return {key: _single(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_single(item) for item in value)
    return value


def digest_points(inputs: Any, targets: Tensor) -> str:
    """Return the sha256 of points, after preprocessing: inputs and targets, independent of dtype and device."""
    hasher = hashlib.sha256(b"points")
    _update(hasher, _single(inputs))
    _update(hasher, _single(targets))
    return hasher.hexdigest()


def digest_initial(w0: Tensor) -> str:
    """Return the sha256 of initial weights, (p,), independent of the device."""
    hasher = hashlib.sha256(b"initial")
    _update(hasher, w0)
    return hasher.hexdigest()


def model_key(architecture: str, model: nn.Module) -> str:
    """Return sha256(architecture, canonical tensors): the same for the same weights, wherever they came from."""
    hasher = hashlib.sha256(architecture.encode())
    _update(hasher, dict(model.state_dict()))
    return hasher.hexdigest()
