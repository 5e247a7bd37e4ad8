"""The weights a model's training started from, as a vector beside its present ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from acutance.errors import UserError
from acutance.io.checkpoints import mismatch
from acutance.model.conditions import Conditions
from acutance.numerics.scalars import is_finite

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel

W0 = (
    "name their checkpoint in the table of a pool of checkpoints (column 'initial', or its setting of that name), give "
    "initial= in Python, or --initial to acutance measure"
)


def initial_vector(
    functional: FunctionalModel, initial: nn.Module | Mapping[str, Tensor], what: str = "initial weights"
) -> Tensor:
    """Return the initial weights in the order of the slots, (P,), on the model's device, in its dtype.

    Args:
        functional: the model at its present weights.
        initial: as for ``initial_parts``.
        what: as for ``initial_parts``.

    Raises:
        UserError: as ``initial_parts``.
    """
    device, dtype = functional.device, functional.dtype
    parts = initial_parts(functional, initial, what)
    with Conditions(device, dtype, grad=False):
        return torch.cat([part.detach().to(device, dtype).reshape(-1) for part in parts])


def initial_parts(
    functional: FunctionalModel, initial: nn.Module | Mapping[str, Tensor], what: str = "initial weights"
) -> list[Tensor]:
    """Return the initial weights of every slot, as they are given.

    Buffers and integer parameters are passed over; a tied parameter may go by any of its names.

    Args:
        functional: the model at its present weights.
        initial: the model at its initial weights, or its state dict; or another number for each weight.
        what: what messages call them.

    Raises:
        UserError: naming what is missing, unexpected, of another shape or not finite.
    """
    if not isinstance(initial, nn.Module | Mapping):
        raise UserError(f"the {what} are a {type(initial).__name__}", "give a model, or its state dict")
    start: dict[str, Tensor] = (
        dict(initial.named_parameters(remove_duplicate=False)) if isinstance(initial, nn.Module) else dict(initial)
    )
    model = functional.model
    names = {*model.state_dict(), *(name for name, _ in model.named_parameters(remove_duplicate=False))}
    names.update(name for name, _ in model.named_buffers(remove_duplicate=False))
    tensors = [next((start[name] for name in slot.names if name in start), None) for slot in functional.slots]
    pairs = list(zip(functional.slots, tensors, strict=True))
    for slot, tensor in pairs:
        if not isinstance(tensor, Tensor | None):
            raise UserError(f"the {what} of '{slot.name}' are a {type(tensor).__name__}", "give a tensor")
    problem = mismatch(
        [slot.name for slot, tensor in pairs if tensor is None],
        [name for name in start if name not in names],
        [
            f"{slot.name} is {tuple(tensor.shape)}, the model has {tuple(slot.shape)}"
            for slot, tensor in pairs
            if tensor is not None and tensor.shape != slot.shape
        ],
    )
    if problem:
        raise UserError(
            f"the {what} do not fit the model: {problem}",
            f"give the same architecture at its {what}, or its state dict",
        )
    for slot, tensor in pairs:
        if tensor is not None and not bool(is_finite(tensor)):
            raise UserError(f"the {what} of '{slot.name}' are not finite")
    return [tensor for tensor in tensors if tensor is not None]
