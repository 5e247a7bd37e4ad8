"""Fingerprints of tensors: what a model and a batch *are*, whatever file or device they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
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


MASK = "attention_mask"


def digest_examples(inputs: Any) -> Tensor:
    """Return a digest of each example's inputs, (n,) int64 on the CPU: of equal examples equal ones, wherever they lie.

    What an ``attention_mask`` hides of a text does not count: splits are padded to lengths of their own.

    Args:
        inputs: a tensor, a dict or tuple of tensors, or what is read when it is used; first axis the example.
    """
    if isinstance(inputs, Lazy):
        return torch.cat([torch.zeros(0, dtype=torch.long), *map(digest_examples, inputs.chunks())])
    parts = [(name, part) for name, part in _by_example("", inputs) if len(part)]
    mask = _shown(inputs)
    hashers = [hashlib.sha256() for _ in range(len(parts[0][1]) if parts else 0)]
    for name, part in parts:
        hidden = mask is not None and part.shape == mask.shape
        title = f"{name}{'' if hidden else tuple(part.shape[1:])}".encode()
        rows = part.reshape(len(part), -1).numpy()
        for i, (hasher, row) in enumerate(zip(hashers, rows, strict=True)):
            hasher.update(title)
            hasher.update(row[mask[i]].tobytes() if mask is not None and hidden else row)
    return torch.tensor([int.from_bytes(h.digest()[:8], "little", signed=True) for h in hashers], dtype=torch.long)


def _by_example(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in inputs that have a row an example, by their place, on the CPU in canonical form."""
    if isinstance(value, Tensor) and value.dim():
        # Bytes stay bytes: as whole numbers images would be eight times as much to read.
        part = value.detach().cpu()
        yield name, (part if part.dtype == torch.uint8 else _single(part)).contiguous()
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _by_example(f"{name}\x1f{key}", value[key])
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _by_example(f"{name}\x1e{i}", item)


def _shown(inputs: Any) -> Any:
    """Return which places of a text are no padding, (n, L) bool of NumPy; None where nothing says so."""
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    return (mask.detach().cpu() != 0).numpy() if isinstance(mask, Tensor) and mask.dim() == 2 else None


def digest_initial(*parts: Tensor) -> str:
    """Return the sha256 of initial weights, (p,), or of parts of them, independent of the device."""
    hasher = hashlib.sha256(b"initial")
    for part in parts:
        _update(hasher, part)
    return hasher.hexdigest()


def model_key(architecture: str, model: nn.Module) -> str:
    """Return sha256(architecture, canonical tensors): the same for the same weights, wherever they came from."""
    hasher = hashlib.sha256(architecture.encode())
    _update(hasher, dict(model.state_dict()))
    return hasher.hexdigest()
