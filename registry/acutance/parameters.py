"""The parameters of a model as slots of one flat vector: tied ones once, whatever shape they are seen in.

Two parameters are tied when they share memory. The larger contiguous one owns the slot; another is seen through it: as
it is, in another shape, transposed, or as a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from acutance.errors import UserError, some

Seen = Callable[[Tensor], Tensor] | None  # from the slot's tensor to what a module holds; None for the tensor itself
Places = list[tuple[dict[str, Any], str, Seen]]
SHARDED = ("DTensor", "FlatParameter", "ShardedTensor")


@dataclass(frozen=True)
class Slot:
    """One parameter in the flat vector; a tied one has several names and places in the model."""

    names: tuple[str, ...]
    kind: str
    shape: torch.Size
    numel: int
    places: Places

    @property
    def name(self) -> str:
        """The first of its names, in the model's order."""
        return self.names[0]


@dataclass
class _Found:
    """A parameter that owns a slot, with the names and places of all that are tied to it."""

    tensor: Tensor
    names: list[str] = field(default_factory=list)
    places: Places = field(default_factory=list)


def slots_of(model: nn.Module) -> tuple[list[Slot], list[Tensor]]:
    """Return the slots of a model's floating-point parameters, in its order, and the tensor that owns each.

    Raises:
        UserError: for parameters that cannot be measured, or that share memory in a way no view of torch expresses.
    """
    named = [(name, p) for name, p in model.named_parameters(remove_duplicate=False) if _usable(name, p)]
    owners: list[_Found] = []
    same: dict[Any, _Found] = {}
    overlapping: dict[int, list[_Found]] = {}
    # The larger first: a part that comes earlier in the model belongs to the whole that comes later.
    for _, tensor in sorted(named, key=lambda pair: (-pair[1].numel(), not pair[1].is_contiguous())):
        if _layout(tensor) in same:
            continue
        beside = overlapping.setdefault(tensor.untyped_storage().data_ptr(), [])
        owner = next((found for found in beside if _share(found.tensor, tensor)), None)
        if owner is None:
            owner = _Found(tensor)
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
            owner.places.append((table, last, _seen(owner, tensor, name)))
    position = {name: i for i, (name, _) in enumerate(named)}
    owners.sort(key=lambda found: position[found.names[0]])
    layouts = {name: _layout(tensor) for name, tensor in named}
    slots = []
    for found in owners:
        # Its own names come before those of what is seen through it in another shape.
        names = sorted(found.names, key=lambda name: layouts[name] != _layout(found.tensor))
        kind = type(modules[names[0].rpartition(".")[0]]).__name__
        slots.append(Slot(tuple(names), kind, found.tensor.shape, found.tensor.numel(), found.places))
    return slots, [found.tensor for found in owners]


def notes_on(model: nn.Module) -> list[str]:
    """Return what a reader should know of weights that stay as they are, and of a mode that is not the user's."""
    notes = []
    named = list(model.named_parameters())
    whole = [f"{name} ({p.numel()} of {_dtype(p)})" for name, p in named if not p.is_floating_point() and p.numel()]
    if whole:
        notes.append(f"parameters of whole numbers stay as they are: {some(whole)}")
    asked = [name or type(module).__name__ for name, module in model.named_modules() if _has_own_train(module)]
    if asked:
        notes.append(
            f"the model is measured in evaluation mode without asking train() of its own, which may differ: "
            f"{some(asked)}"
        )
    left = [name for name, module in model.named_modules() if module.training and not model.training]
    if left:
        notes.append(
            f"the model is measured in evaluation mode in all of its parts, though some are left in training: "
            f"{some(left)}"
        )
    quantized = [name for name, module in model.named_modules() if _is_quantized(module)]
    if quantized:
        notes.append(f"the weights of quantized layers stay as they are: {some(quantized)}")
    return notes


LIBRARIES = ("torch.", "torchvision.", "timm.", "transformers.")  # whose train() does what that of modules does


def _has_own_train(module: nn.Module) -> bool:
    """Whether it has a say in its mode, which passes set by the flag alone: asking it might merge or change weights."""
    own = type(module).train
    return own is not nn.Module.train and not own.__module__.startswith(LIBRARIES)


def no_weights(model: nn.Module) -> str:
    """Return what to do about a model without floating-point parameters."""
    if any(_is_quantized(module) for module in model.modules()) or any(True for _ in model.parameters()):
        return "its weights are quantized, so none can move: measure the model in floating point that it was made from"
    return "give a model with weights"


def remarks_on(model: nn.Module, slots: Sequence[Slot]) -> list[str]:
    """Return what is as documented and worth saying all the same: that frozen parameters move like the others."""
    named = list(model.named_parameters())
    free = {name for slot in slots for name in slot.names}
    frozen = [name for name, p in named if name in free and not p.requires_grad]
    if frozen and len(frozen) < sum(name in free for name, _ in named):
        count = sum(p.numel() for name, p in named if name in frozen)
        return [
            f"{count} parameters have requires_grad=False and move like the others: {some(frozen)}; 'parameters' can "
            "leave them out"
        ]
    return []


def _usable(name: str, parameter: Tensor) -> bool:
    kind = type(parameter).__name__
    if kind in SHARDED or type(parameter.data).__name__ == "DTensor":
        raise UserError(f"parameter '{name}' is sharded ({kind})", "gather the model on one device first")
    if parameter.is_meta or isinstance(parameter, nn.parameter.UninitializedParameter):
        raise UserError(f"parameter '{name}' has no values", "load the weights before measuring")
    if parameter.is_complex():
        raise UserError(f"parameter '{name}' is complex", "only real weights are supported")
    if parameter.is_floating_point() and (parameter.is_nested or parameter.layout is not torch.strided):
        layout = "nested" if parameter.is_nested else str(parameter.layout).removeprefix("torch.")
        raise UserError(f"parameter '{name}' is stored as {layout}", "make it dense: parameter.to_dense()")
    return parameter.is_floating_point() and parameter.numel() > 0


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


def _seen(owner: _Found, tensor: Tensor, name: str) -> Seen:
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


def _is_quantized(module: nn.Module) -> bool:
    return ".quantized" in type(module).__module__ and callable(getattr(module, "weight", None))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
