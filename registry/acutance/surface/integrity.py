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
    read of every tensor, one wait for the device.
    """
    sums = [_bits(tensor) for tensors in groups.values() for tensor in tensors]
    several = len({total.device for total in sums}) > 1  # of a model that one device does not hold
    totals = iter(torch.stack([total.cpu() for total in sums] if several else sums).tolist())
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
