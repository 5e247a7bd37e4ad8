"""What torch's modules of ``fully_shard`` and its DTensors are, as far as a sharded model is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from acutance.errors import UserError
from acutance.model.parameters import Places, Slot
from acutance.model.shares import Share, is_dtensor, whole
from acutance.model.ties import GATHER, usable

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

STATE = "_training_state"  # of a pass, on which modules and groups of fully_shard are
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def groups_of(module: nn.Module) -> list[Any]:
    """Return the groups of parameters that a module of ``fully_shard`` gathers together."""
    state = _state_of(module)
    groups = getattr(state, "_fsdp_param_groups", None)
    return list(groups) if groups is not None else [g for g in [getattr(state, "_fsdp_param_group", None)] if g]


def roots_of(model: nn.Module) -> list[Any]:
    """Return the outermost modules of ``fully_shard``."""
    roots: list[Any] = []
    inside: set[int] = set()
    for module in model.modules():
        if "FSDPModule" in {base.__name__ for base in type(module).__mro__}:
            if id(module) not in inside:
                roots.append(module)
            inside.update(id(inner) for inner in module.modules())
    return roots


def _state_of(module: nn.Module) -> Any:
    return getattr(module, "_get_fsdp_state", lambda: None)()


def settle(roots: list[Any]) -> None:
    """Let go of what outermost modules, and those in them, have gathered, also after a pass that failed half-way."""
    for root in roots:
        begun = getattr(_state_of(root), "_is_root", None)
        if begun and hasattr(root, "reset_iter_state"):
            root.reset_iter_state()
            continue
        for module in root.modules():
            if hasattr(module, "reshard"):
                _reset(module)
                module.reshard()


def _reset(module: Any) -> None:
    """Let a module of ``fully_shard`` be as between two passes, where torch has no public call for it."""
    state = _state_of(module)
    for one in (state, *groups_of(module)):
        setattr(one, STATE, type(getattr(one, STATE)).IDLE)
    for group in groups_of(module):
        getattr(group, "_post_forward_indices", []).clear()
        getattr(group.comm_ctx, "post_forward_order", []).clear()
    context = getattr(state, "_state_ctx", None)
    for name, idle in {"iter_forward_root": None, "post_backward_final_callback_queued": False}.items():
        if hasattr(context, name):
            setattr(context, name, idle)


def refuse_modules(model: nn.Module) -> None:
    """Refuse modules whose weights are not simply what a process holds."""
    for name, module in model.named_modules():
        where = f"module '{name}'" if name else "the model"
        if is_parametrized(module):
            raise UserError(f"{where} is sharded, and has parametrized weights", GATHER)
        if hasattr(module, "_flat_weights_names"):
            raise UserError(f"{where} is a recurrent layer of a sharded model", GATHER)
        if getattr(module, "max_norm", None) is not None:
            raise UserError(
                f"{where} of the sharded model changes its weights in every forward pass (max_norm)",
                "normalize its weights once, then set max_norm to None",
            )
        if buffers := [key for key, b in module.named_buffers(recurse=False) if is_dtensor(b)]:
            raise UserError(f"buffer '{buffers[0]}' of {where} is sharded over processes", GATHER)


def slots_of(model: nn.Module) -> list[Slot]:
    """Return the floating-point parameters; several names of one parameter are tied."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, tuple[Any, list[str], Places]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if not usable(name, p):
            continue
        _, names, places = found.setdefault(id(p), (p, [], []))
        path, _, last = name.rpartition(".")
        names.append(name)
        if not any(table is modules[path]._parameters for table, key, _ in places if key == last):
            places.append((modules[path]._parameters, last, None))
    memory: dict[int, str] = {}
    for p, names, _ in found.values():
        here = 0 if is_dtensor(p) else p.untyped_storage().data_ptr()
        if here and (first := memory.setdefault(here, names[0])) != names[0]:
            raise UserError(f"parameters '{first}' and '{names[0]}' of the sharded model share memory", GATHER)
    return [
        Slot(tuple(names), _kind(modules[names[0].rpartition(".")[0]]), p.shape, p.numel(), places)
        for p, names, places in found.values()
    ]


def _kind(module: nn.Module) -> str:
    """Return the kind of a module as it was before it was sharded: ``fully_shard`` makes a class of its own."""
    bases = type(module).__mro__
    if len(bases) > 2 and bases[1].__name__ == "FSDPModule":
        return bases[2].__name__
    return bases[0].__name__


def refuse_placement(name: str, parameter: Any) -> None:
    """Refuse a mesh of several dimensions, and what is not cut along one axis or held whole by each.

    Raises:
        UserError: the same in every process.
    """
    if not is_dtensor(parameter):
        return
    placements = parameter.placements
    if len(placements) != 1:
        raise UserError(
            f"parameter '{name}' is sharded over a mesh of {len(placements)} dimensions (DTensor)",
            f"shard it over a mesh of one, or {GATHER}",
        )
    if type(placements[0]).__name__ not in ("Replicate", "Shard"):  # no kinds of these
        raise UserError(f"parameter '{name}' is placed as {placements[0]} (DTensor)", GATHER)


def share_of(shape: torch.Size, parameter: Any, rank: int, count: int) -> Share:
    """Return what this process holds of a parameter of this shape."""
    axis = parameter.placements[0].dim if is_dtensor(parameter) and parameter.placements[0].is_shard() else None
    return Share.whole(shape) if axis is None else Share.cut(shape, axis % len(shape), rank, count)


def part_of(parameter: Any) -> Tensor:
    """Return what this process holds of a parameter, in its memory; writing there leaves versions alone."""
    with torch.no_grad():
        local: Tensor = parameter.to_local() if is_dtensor(parameter) else parameter
        return local.data


def part_of_gradient(g: Any, parameter: Any) -> Tensor:
    """Return the part of a gradient that belongs to a process's part of the parameter."""
    if not is_dtensor(parameter):
        plain = whole(g)
        return plain.to_dense() if plain.is_sparse else plain
    there: DTensor = g.redistribute(placements=parameter.placements)
    return there.to_local()


def bits_of(tensor: Tensor) -> Tensor:
    """Return a tensor's numbers as whole ones of the same bits."""
    return tensor.reshape(-1).view(_BITS.get(tensor.element_size(), torch.uint8))


def sum_of_bits(tensor: Tensor) -> int:
    """Return the sum of these, which differs where numbers do."""
    return int(bits_of(tensor).sum(dtype=torch.int64))
