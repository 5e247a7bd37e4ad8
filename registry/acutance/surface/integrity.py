"""Noticing a measure that changes what it was given: the next one would measure another model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acutance.model.state import tensors_of, version_of
from acutance.surface.loss_surface import LossSurface

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Corrupted(Exception):
    """A measure changed its surface; whatever is measured on it from now on is wrong."""


@contextmanager
def untouched(surface: LossSurface, measure: str) -> Iterator[None]:
    """Watch a surface while a measure has it.

    What the model's own forward pass changes is not the measure's doing: a surface refuses such a model itself, or puts
    the buffer back before each pass.

    Raises:
        Corrupted: when weights, buffers, inputs or targets are not what they were, also after an exception.
    """
    tensors = _tensors(surface)
    before = _fingerprints(tensors)
    try:
        yield
    finally:
        functional = surface.core.functional
        if functional.refused is None:
            after = _fingerprints(tensors)
            moving = {f"buffers {name}" for name, _, _ in functional.moving or ()}
            changed = [name for name in before if name not in moving and before[name] != after[name]]
            changed += [] if changed or _vector_is_right(surface) else ["weights"]
            if changed:
                parts = " and the ".join(dict.fromkeys(name.partition(" ")[0] for name in changed))
                raise Corrupted(
                    f"measure '{measure}' changed the {parts} of the surface that it was given: it must work on "
                    "copies; its values are refused"
                )


def _tensors(surface: LossSurface) -> dict[str, list[Tensor]]:
    """Return what a surface is made of. A vector of w* that does not stand for the model's own tensors exists here."""
    functional = surface.core.functional
    own = list(functional.own_pieces()) if functional.weights.own else [functional.w]
    vector = vars(surface).get("w") if functional.weights.own else surface.w
    if functional.sharded is not None:
        functional.sharded.settle()
        own += functional.sharded.watched()
    return {
        "weights": own if vector is None or vector is own[0] else [*own, vector],
        **{f"buffers {name}": [buffer] for name, buffer in functional.named_buffers()},
        "inputs": list(tensors_of(surface.inputs)),
        "targets": list(tensors_of(surface.core.targets)),
    }


def _vector_is_right(surface: LossSurface) -> bool:
    """Return whether the vector of w* that was made meanwhile of the model's own tensors, if any was, is what they are.

    Those have been looked at by themselves.
    """
    vector = vars(surface).get("w")
    if vector is None or not surface.core.functional.weights.own:
        return True
    parameters, pieces = surface.parameters, surface.core.functional.own_pieces()
    own = (pieces[i] for i in parameters.free)
    return all(torch.equal(a, b) for a, b in zip(parameters.split(vector), own, strict=True))


def _fingerprints(groups: dict[str, list[Tensor]]) -> dict[str, tuple[int, ...]]:
    """Return numbers that change with any of the tensors: the counts of in-place changes, and the sums of all bits.

    The counts see what moves without changing a sum, the sums see what is written past autograd (``.data``, NumPy). One
    read of every tensor, one wait for each accelerator.
    """
    tensors = [tensor for group in groups.values() for tensor in group]
    sums: dict[int, int] = {}
    for device in {tensor.device for tensor in tensors}:
        here = [(i, tensor) for i, tensor in enumerate(tensors) if tensor.device == device]
        found = [_sum_of_bits(tensor) for _, tensor in here]
        sums |= zip((i for i, _ in here), found if device.type == "cpu" else _at_once(found), strict=True)
    totals = iter(sums[i] for i in range(len(tensors)))
    return {
        name: tuple(number for tensor in group for number in (version_of(tensor), next(totals)))
        for name, group in groups.items()
    }


def _sum_of_bits(tensor: Tensor) -> Any:
    """Return the sum of a tensor's bits, read as whole numbers, without a copy of it; on a CPU a number of Python."""
    whole = tensor.detach().contiguous().flatten()
    if whole.device.type == "cpu":
        return _sum_of_bytes(whole.view(torch.uint8).numpy())
    numbers = whole if whole.dtype is torch.bool else whole.view(_BITS.get(whole.element_size(), torch.int64))
    return numbers.sum(dtype=torch.int64)


def _sum_of_bytes(data: NDArray[np.uint8]) -> int:
    """Return the sum of bytes, read eight at a time: NumPy takes a few microseconds for it, torch ten times as many."""
    rest = len(data) % 8
    return int(data[: len(data) - rest].view(np.int64).sum()) + int(data[len(data) - rest :].sum())


def _at_once(sums: list[Tensor]) -> list[int]:
    """Return what tensors of one number hold, by one wait for their device."""
    found: list[int] = torch.stack(sums).tolist()
    return found
