"""Noticing a measure that changes what it was given: the next one would measure another model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from acutance.model.state import tensors_of, version_of
from acutance.surface.loss_surface import LossSurface

_PART = 1 << 12  # numbers that are added up at once on a CPU
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
    before = _fingerprints(surface)
    try:
        yield
    finally:
        functional = surface.core.functional
        if functional.refused is None:
            after = _fingerprints(surface)
            moving = {f"buffers {name}" for name, _, _ in functional.moving or ()}
            changed = [name for name in before if name not in moving and before[name] != after[name]]
            if changed:
                parts = " and the ".join(dict.fromkeys(name.partition(" ")[0] for name in changed))
                raise Corrupted(
                    f"measure '{measure}' changed the {parts} of the surface that it was given: it must work on "
                    "copies; its values are refused"
                )


def _fingerprints(surface: LossSurface) -> dict[str, tuple[int, ...]]:
    """Return numbers that change with any of the tensors: the counts of in-place changes, and the sums of all bits.

    The counts see what moves without changing a sum, the sums see what is written past autograd (``.data``, NumPy). One
    read of every tensor, one wait for the device.
    """
    functional = surface.core.functional
    groups = {
        "weights": [functional.w, *([] if surface.w is functional.w else [surface.w])],
        **{f"buffers {name}": [buffer] for name, buffer in functional.named_buffers()},
        "inputs": list(tensors_of(surface.inputs)),
        "targets": list(tensors_of(surface.core.targets)),
    }
    sums = [_bits(tensor) for tensors in groups.values() for tensor in tensors]
    totals = iter(torch.stack(sums).tolist())
    return {
        name: tuple(number for tensor in tensors for number in (version_of(tensor), next(totals)))
        for name, tensors in groups.items()
    }


def _bits(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, read as whole numbers, without a copy of it."""
    whole = tensor.detach().contiguous().flatten()
    numbers = whole if whole.dtype is torch.bool else whole.view(_BITS.get(whole.element_size(), torch.int64))
    if numbers.is_cuda:
        return numbers.sum(dtype=torch.int64)
    # A CPU converts all that it is given to add up before it adds.
    return torch.stack([part.sum(dtype=torch.int64) for part in numbers.split(_PART)]).sum()
