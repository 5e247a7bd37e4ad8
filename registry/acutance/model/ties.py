"""Which parameters of a model share memory, and how each is seen through the one that owns it.

Two parameters are tied when they share memory. The larger contiguous one owns the slot; another is seen through it: as
it is, in another shape, transposed, or as a part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from acutance.errors import UserError
from acutance.model.parameters import Parameters, Places, Slot, View

GATHER = (
    "gather its weights (torch.distributed.checkpoint.state_dict.get_model_state_dict with "
    "StateDictOptions(full_state_dict=True, cpu_offload=True), called by all processes), load them in one process into "
    "a model that was not sharded, and measure that"
)
SHARDED = ("FlatParameter", "ShardedTensor")


@dataclass
class _Owner:
    """A parameter that owns a slot, with the names and places of all that are tied to it."""

    tensor: Tensor
    names: list[str] = field(default_factory=list)
    places: Places = field(default_factory=list)


def parameters_of(
    model: nn.Module, value_of: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> tuple[Parameters, list[Tensor]]:
    """Return a model's floating-point parameters, all free, and the tensor that owns each slot.

    Args:
        model: any module.
        value_of: gives the values of a parameter that lie elsewhere (offloaded ones).

    Raises:
        UserError: for parameters that cannot be measured, or that share memory in a way no view of torch expresses.
    """
    valued = [(name, value_of(p)) for name, p in model.named_parameters(remove_duplicate=False)]
    named = [(name, p) for name, p in valued if usable(name, p)]
    owners: list[_Owner] = []
    same: dict[Any, _Owner] = {}
    overlapping: dict[int, list[_Owner]] = {}
    # The larger first: a part that comes earlier in the model belongs to the whole that comes later.
    for _, tensor in sorted(named, key=lambda pair: (-pair[1].numel(), not pair[1].is_contiguous())):
        if _layout(tensor) in same:
            continue
        beside = overlapping.setdefault(tensor.untyped_storage().data_ptr(), [])
        owner = next((owner for owner in beside if _share(owner.tensor, tensor)), None)
        if owner is None:
            owner = _Owner(tensor)
            owners.append(owner)
            beside.append(owner)
        same[_layout(tensor)] = owner
    modules = dict(model.named_modules(remove_duplicate=False))
    written: set[tuple[int, str]] = set()
    for name, tensor in named:
        owner = same[_layout(tensor)]
        owner.names.append(name)
        path, _, last = name.rpartition(".")
        table = modules[path]._parameters
        if (id(table), last) not in written:
            written.add((id(table), last))
            owner.places.append((table, last, _view(owner, tensor, name)))
    position = {name: i for i, (name, _) in enumerate(named)}
    owners.sort(key=lambda owner: position[owner.names[0]])
    layouts = {name: _layout(tensor) for name, tensor in named}
    slots = []
    for owner in owners:
        # Its own names come before those of what is seen through it in another shape.
        names = sorted(owner.names, key=lambda name: layouts[name] != _layout(owner.tensor))
        kind = type(modules[names[0].rpartition(".")[0]]).__name__
        slots.append(Slot(tuple(names), kind, owner.tensor.shape, owner.tensor.numel(), owner.places))
    return Parameters.all_free(slots), [owner.tensor for owner in owners]


def usable(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter takes part: floating-point, not empty; raise UserError where it cannot be measured."""
    kind = type(parameter).__name__
    if kind in SHARDED:
        raise UserError(f"parameter '{name}' is sharded over processes ({kind})", GATHER)
    if hasattr(parameter, "ds_id"):
        raise UserError(
            f"parameter '{name}' is partitioned by DeepSpeed (ZeRO stage 3)",
            "save the gathered weights (zero_to_fp32.py) and load them into a model that was not given to it",
        )
    if parameter.is_meta or isinstance(parameter, nn.parameter.UninitializedParameter):
        raise UserError(f"parameter '{name}' has no values", "load the weights before measuring")
    if parameter.is_complex():
        raise UserError(f"parameter '{name}' is complex", "only real weights are supported")
    if parameter.is_floating_point() and (parameter.is_nested or parameter.layout is not torch.strided):
        layout = "nested" if parameter.is_nested else str(parameter.layout).removeprefix("torch.")
        raise UserError(f"parameter '{name}' is stored as {layout}", "make it dense: parameter.to_dense()")
    return parameter.is_floating_point() and parameter.numel() > 0


def nonfinite(name: str, count: int) -> UserError:
    """Return the refusal of a parameter with so many values that are no numbers."""
    what = f"parameter '{name}' has {count} non-finite value(s)"
    return UserError(what, "the checkpoint is damaged or its training diverged")


def _layout(tensor: Tensor) -> tuple[int, torch.dtype, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor's memory, and the one after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _share(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage have numbers in common; columns of one matrix may lie between each other."""
    (start, end), (first, last) = _span(a), _span(b)
    if end <= first or last <= start:
        return False
    if a.is_contiguous() or b.is_contiguous():
        return True
    return bool(torch.isin(_addresses(a), _addresses(b)).any())


def _addresses(tensor: Tensor) -> Tensor:
    """Return the byte at which each number of a tensor lies."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = offsets.unsqueeze(-1) + torch.arange(size) * stride
    return tensor.data_ptr() + offsets.flatten() * tensor.element_size()


def _view(owner: _Owner, tensor: Tensor, name: str) -> View:
    """Return how a tied parameter is seen through the tensor that owns its memory.

    Raises:
        UserError: naming both where it is no part of it, or no view of torch gives it.
    """
    whole = owner.tensor
    if _layout(whole) == _layout(tensor):
        return None
    first, rest = divmod(tensor.data_ptr() - whole.data_ptr(), whole.element_size())
    size, shape = tensor.numel(), tensor.shape
    order = sorted(range(tensor.dim()), key=lambda axis: -tensor.stride()[axis])
    ordered = [shape[axis] for axis in order]
    inside = whole.is_contiguous() and whole.dtype == tensor.dtype and rest == 0 and 0 <= first <= whole.numel() - size
    if not inside or not tensor.permute(order).is_contiguous() or prod(ordered) != size:
        raise UserError(
            f"parameters '{name}' and another of shape {tuple(whole.shape)} share memory, but neither is a plain part "
            "of the other",
            "give each its own memory (.clone()), or tie them as a whole, transposed or as a block of rows",
        )
    back = [order.index(axis) for axis in range(tensor.dim())]
    return lambda t: t.reshape(-1)[first : first + size].view(ordered).permute(back)
