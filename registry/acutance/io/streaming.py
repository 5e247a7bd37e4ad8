"""Models filled tensor by tensor: beside the model no more is held than the tensor that is being copied."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from acutance.errors import UserError, some
from acutance.io.checkpoints import advice, fitted, mismatch, note
from acutance.io.stored import Stored, floating_kind, stored_in
from acutance.system.memory import require_room


@contextmanager
def without_values() -> Iterator[None]:
    """Context in which new parameters have no values, and take no memory (they are on ``meta``); buffers have theirs.

    Modules that other threads make meanwhile are as always.
    """
    register, here = nn.Module.register_parameter, threading.get_ident()
    made: dict[int, tuple[ref[nn.Parameter], nn.Parameter]] = {}

    def registered(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta and threading.get_ident() == here:
            known = made.get(id(param))
            if known is None or known[0]() is not param:  # a parameter in two places stays one
                known = made[id(param)] = ref(param), nn.Parameter(param.detach().to("meta"), param.requires_grad)
            param = known[1]
        register(module, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def streamed(
    path: Path,
    make: Callable[[torch.dtype | None], nn.Module],
    renamed: Callable[[Mapping[str, Stored], nn.Module], dict[str, Stored]] = lambda stored, model: dict(stored),
) -> nn.Module:
    """Return a model with the weights of a checkpoint, in the type of these, of which no second copy is held meanwhile.

    Args:
        path: as ``read_state`` takes it; of safetensors, also in parts, nothing but headers is read before.
        make: gives the model, of the type in which all floating-point tensors of the file are exact.
        renamed: gives {the model's name: what is stored}, of what is stored by its name there and the model.

    Raises:
        NoRoom: for weights that memory does not hold, before the model is made.
        UserError: for a file, or a part, that is missing or damaged, and tensors that do not fit.
    """
    stored = stored_in(path)
    kind = floating_kind(stored.values())
    require_room(f"{path}: its weights", sum(one.size_in(kind) for one in stored.values()))
    try:
        with without_values():
            model = make(kind)
    except (NotImplementedError, RuntimeError, UserError):
        # A constructor that reads parameters finds no values there; whatever else is wrong is so again.
        model = make(kind)
    wanted = renamed(stored, model)
    del stored  # what is read already is given up as it is copied
    return load_stored(model, wanted, str(path), kind)


def load_stored(
    model: nn.Module, stored: MutableMapping[str, Stored], where: str, kind: torch.dtype | None = None
) -> nn.Module:
    """Give a model the tensors of a checkpoint, read one after the other; every name and shape must fit.

    Of tied parameters one is enough. Parameters may be on ``meta`` before.

    Args:
        model: of the right architecture.
        stored: by name; emptied meanwhile, so that nothing is held twice.
        where: what messages call the checkpoint.
        kind: of floating-point parameters; as each is stored by default.

    Raises:
        UserError: naming what is missing, unexpected, of another shape, or no plain numbers of the right kind.
    """
    own = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    found = fitted(model, stored)
    stored.clear()
    given = {id(own[name]) for name in found if name in own}
    missing = [name for name, tensor in own.items() if id(tensor) not in given]
    unexpected = [name for name in found if name not in own]
    shapes = [
        f"{name} is {found[name].shape}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != tuple(own[name].shape)
    ]
    if problem := mismatch(missing, unexpected, shapes):
        raise UserError(f"{where}: does not fit the architecture: {problem}", advice(own, found))
    if wrong := [f"{name} {fault}" for name in found if (fault := _no_weights(found[name], own[name]))]:
        raise UserError(f"{where}: does not hold the weights: {some(wrong)}", "save the weights as plain float tensors")
    places = _places(model)
    rounded, filled = [], dict[int, nn.Parameter]()
    with torch.no_grad():
        for name in list(found):
            one = found.pop(name)
            old, value = own[name], one.read()
            wanted = old.dtype if not old.is_floating_point() or id(old) not in places else kind or value.dtype
            new = value.to(wanted, copy=True)
            if not _same(new, value):
                rounded.append(f"{name} ({one.kind} to {str(wanted).removeprefix('torch.')})")
            if id(old) not in places:
                old.copy_(new)
                continue
            if id(old) in filled and not torch.equal(filled[id(old)], new):
                raise UserError(
                    f"{where}: '{name}' has other values than what the model ties it to",
                    "its config says that they are one (tie_word_embeddings)",
                )
            parameter = filled[id(old)] = nn.Parameter(new, old.requires_grad)
            for table, last in places[id(old)]:
                table[last] = parameter
    if rounded:
        note(model, f"weights are rounded as they are loaded: {some(rounded)}")
    return model.eval()


def _places(model: nn.Module) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """Return where each parameter stands, by its identity."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((module._parameters, name))
    return places


def _same(new: Tensor, value: Tensor) -> bool:
    """Whether a tensor of another type has the same numbers."""
    if new.dtype == value.dtype or not value.is_floating_point():
        return bool((new.to(value.dtype) == value).all()) if new.dtype != value.dtype else True
    if torch.promote_types(new.dtype, value.dtype) == new.dtype:
        return True
    return bool(((new.to(value.dtype) == value) | value.isnan()).all())


def _no_weights(stored: Stored, own: Tensor) -> str:
    """Return why a stored tensor cannot be the values of one of the model's; empty where it can."""
    kind, wanted = stored.dtype, str(own.dtype).removeprefix("torch.")
    tensor = stored.tensor
    if kind is None or (kind.itemsize == 1 and kind.is_floating_point) or (tensor is not None and tensor.is_quantized):
        return f"is quantized ({stored.kind})"
    if tensor is not None and (tensor.is_nested or tensor.layout is not torch.strided):
        return "is nested" if tensor.is_nested else f"is stored as {str(tensor.layout).removeprefix('torch.')}"
    if tensor is not None and tensor.is_meta:
        return "has no values (it is on the device meta)"
    if kind.is_complex and not own.is_complex():
        return f"is complex, the model's is {wanted}"
    if own.is_floating_point() and not kind.is_floating_point:
        return f"holds whole numbers ({stored.kind}), codes perhaps; the model's is {wanted}"
    return ""
