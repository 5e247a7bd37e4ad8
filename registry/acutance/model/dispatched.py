"""Models that one device does not hold: parts on several devices, or offloaded and loaded by accelerate's hooks.

``dispatch_model``, ``cpu_offload`` and ``disk_offload`` of accelerate, and ``device_map`` of transformers, give modules
an ``_hf_hook`` whose ``pre_forward`` brings the inputs to the module's device and, where its weights are offloaded (the
parameters are on ``meta``), loads them from a map; ``post_forward`` takes them off again
(https://huggingface.co/docs/accelerate/concept_guides/big_model_inference). Such a hook would put the stored weights in
the place of those that are measured. While a model holds other weights another one stands for each: it brings what the
module holds to the device, and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acutance.errors import UserError, some

HOOK = "_hf_hook"  # where accelerate keeps a module's hook
MOVING = ("CpuOffload", "LayerwiseCastingHook")  # hooks of it that write to the parameters they find
PROBE = 64  # numbers by which weights that may be the same are found
FORGOTTEN = (
    "parameters {} have equal values, and cpu_offload and disk_offload do not say whether they are tied",
    "offload with accelerate.dispatch_model, or device_map of from_pretrained, which keep ties",
)
SEVERAL = (
    "it asks for a vector of all weights, and here they {}: it is measured on a model that one device holds, opened "
    "without device_map or offloading; forward passes alone are made on this one"
)
OWN_TYPE = (
    "the weights {}, where they keep their own type ({}), and dtype {} was asked for",
    "write surface.dtype: native (in Python dtype='native')",
)


@dataclass
class Dispatched:
    """Where the weights of a model lie, and what stands for its hooks.

    Attributes:
        device: where inputs go first, and logits come back to.
        devices: all that compute.
        hooks: what stands for the hook of each module.
        sources: the values of offloaded parameters and buffers, by the id of what is in their place on ``meta``.
        where: in words where the weights lie, if one device does not hold them all; else empty.
    """

    device: torch.device
    devices: list[torch.device] = field(default_factory=list)
    hooks: list[tuple[nn.Module, StandIn]] = field(default_factory=list)
    sources: dict[int, Tensor] = field(default_factory=dict)
    where: str = ""

    def value_of(self, tensor: Tensor) -> Tensor:
        """Return the values of a parameter or buffer: itself, or those that were offloaded."""
        return self.sources.get(id(tensor), tensor)

    @property
    def computing(self) -> torch.device:
        """The device whose arithmetic counts: the first that is no CPU, if there is one."""
        return next((device for device in self.devices if device.type != "cpu"), self.device)


class StandIn:
    """Stands for a module's hook: what the module holds goes to its device for the pass, and nothing is loaded.

    Args:
        hook: accelerate's.
        parts: the hooks in it.
        module: whose it is.
    """

    def __init__(self, hook: Any, parts: list[Any], module: nn.Module) -> None:
        self.no_grad = bool(hook.no_grad)
        self._parts = [_without_loading(part) for part in parts]
        placed = [
            (inner, device)
            for part in parts
            if (device := execution_device(part)) is not None
            for inner in (module.modules() if part.place_submodules else [module])
        ]
        self._weights = [inner._parameters for inner, _ in placed]
        self._places = [(table, device) for inner, device in placed for table in (inner._parameters, inner._buffers)]
        self._before: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []

    def pre_forward(self, module: nn.Module, *arguments: Any, **named: Any) -> tuple[Any, Any]:
        """Bring the inputs, and what the module holds, to its device."""
        given: tuple[Any, Any] = arguments, named
        for part in self._parts:
            given = part.pre_forward(module, *given[0], **given[1])
        self._before = [
            (table, name, tensor, tensor.to(device))
            for table, device in self._places
            for name, tensor in table.items()
            if tensor is not None
        ]
        for table, name, _, there in self._before:
            table[name] = there
        return given

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Let the module hold what it held, and bring the output where it is wanted.

        Raises:
            UserError: where the pass has exchanged the weights.
        """
        for table, name, tensor, there in self._before:
            if table.get(name) is there:
                table[name] = tensor
            elif any(table is weights for weights in self._weights):
                raise UserError(
                    f"the forward pass of {type(module).__name__} puts another '{name}' in the place of its own",
                    "remove what loads weights there, and give the model with its weights loaded",
                )
        self._before = []
        for part in reversed(self._parts):
            output = part.post_forward(module, output)
        return output


def dispatched(model: nn.Module) -> Dispatched | None:
    """Return where the weights of a model lie; None for a model on one device, without hooks of accelerate.

    Raises:
        UserError: for hooks that write to the weights, offloaded weights that cannot be read, or of which nobody knows
            whether they are tied.
    """
    own = {p.device: None for p in model.parameters() if not p.is_meta and p.is_floating_point()}
    hooked = [(name, module, vars(module)[HOOK]) for name, module in model.named_modules() if HOOK in vars(module)]
    if not hooked and len(own) < 2:
        return None
    stand_ins: list[tuple[nn.Module, StandIn]] = []
    sources: dict[int, Tensor] = {}
    computing: dict[torch.device, None] = {}
    loose: dict[str, Tensor] = {}  # offloaded weights whose ties nobody knows
    tied: list[Tensor] = []  # those that are tied to another
    places: dict[str, None] = {}
    for name, module, hook in hooked:
        parts = list(hook.hooks) if hasattr(hook, "hooks") else [hook]
        _refuse_moving(name, parts)
        stand_ins.append((module, StandIn(hook, parts, module)))
        for part in parts:
            if (device := execution_device(part)) is not None:
                computing[device] = None
            for within, tensor in _offloaded(module, part):
                if id(tensor) in sources:
                    continue
                value, place = _value(part.weights_map, within)
                places[place] = None
                if within in part.tied_params_names:
                    # Which other one it is tied to is not kept: it has the same values.
                    value = next((other for other in tied if _equal(other, value)), value)
                    tied.append(value)
                elif part.tied_params_map is None and isinstance(tensor, nn.Parameter):
                    loose[f"{name}.{within}".strip(".")] = value
                sources[id(tensor)] = value
    _refuse_forgotten(loose)
    first = next(iter(computing or own or {torch.device("cpu"): None}))
    devices = [*dict.fromkeys([*computing, *own])]
    return Dispatched(first, devices, stand_ins, sources, _in_words(own, places))


def _in_words(own: Mapping[torch.device, None], places: Mapping[str, None]) -> str:
    """Return where weights lie, in words; empty where one device holds all."""
    on = f"lie on {some([str(device) for device in own])}" if own and (len(own) > 1 or places) else ""
    off = f"are offloaded ({some(list(places))})" if places else ""
    return " and ".join(filter(None, [on, off]))


def execution_device(hook: Any) -> torch.device | None:
    """Return the device on which a hook lets its module compute; None for one that leaves that open."""
    device = getattr(hook, "execution_device", None)
    return None if device is None else torch.device(device)


def _without_loading(hook: Any) -> Any:
    """Return a copy of a hook that moves inputs and outputs as it does, and leaves the weights alone."""
    other = copy(hook)
    if hasattr(other, "offload"):
        other.offload = False
    return other


def _refuse_moving(name: str, parts: list[Any]) -> None:
    for part in parts:
        if (kind := type(part).__name__) in MOVING:
            raise UserError(
                f"{f'module {name!r}' if name else 'the model'} has accelerate's hook {kind}, which moves or rounds "
                "the weights themselves in every pass",
                "take it off (accelerate.hooks.remove_hook_from_module(model, recurse=True)), or use dispatch_model",
            )


def _offloaded(module: nn.Module, hook: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name in the module, what is on meta) of what a hook loads."""
    if getattr(hook, "offload", False):
        recurse = bool(hook.place_submodules)
        named = [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]
        yield from ((name, tensor) for name, tensor in named if tensor.is_meta)


def _value(weights: Any, name: str) -> tuple[Tensor, str]:
    """Return what a map of offloaded weights has under a name, read where it lies: nothing on a disk is copied."""
    while hasattr(weights, "prefix") and hasattr(weights, "dataset"):
        name, weights = f"{weights.prefix}{name}", weights.dataset
    index, loaded = getattr(weights, "index", None), getattr(weights, "state_dict", None)
    on_disk = isinstance(index, Mapping) and name in index and not (isinstance(loaded, Mapping) and name in loaded)
    try:
        tensor = _mapped(index[name], weights.save_folder, name) if on_disk and index is not None else weights[name]
    except (OSError, RuntimeError, KeyError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the offloaded weights of '{name}' cannot be read: {said}", "load the model and offload it again"
        ) from None
    return tensor.detach(), "disk" if on_disk else str(tensor.device)


def _mapped(entry: Mapping[str, Any], folder: str | None, name: str) -> Tensor:
    """Return the tensor of an entry of accelerate's index, mapped from its file."""
    kind = getattr(torch, entry["dtype"]) if "dtype" in entry else None
    if entry.get("safetensors_file") is not None:
        from safetensors import safe_open

        with safe_open(entry["safetensors_file"], framework="pt", device="cpu") as file:
            found: Tensor = file.get_tensor(entry.get("weight_name", name))
        return found if kind is None else found.to(kind)
    shape = tuple(entry["shape"])
    file = Path(folder or "") / f"{name}.dat"
    if not file.is_file():
        raise OSError(f"{file}: no such file")
    return torch.from_file(str(file), shared=False, size=prod(shape), dtype=kind).view(shape)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _refuse_forgotten(loose: Mapping[str, Tensor]) -> None:
    """Refuse matrices of equal values among offloaded weights that were stored one by one: they may have been tied."""
    seen: dict[tuple[Any, ...], list[tuple[str, Tensor]]] = {}
    for name, tensor in loose.items():
        if tensor.dim() < 2 or not tensor.numel() or bool((tensor == tensor.reshape(-1)[0]).all()):
            continue
        few = tensor.reshape(-1)[:PROBE].double().tolist()
        others = seen.setdefault((tensor.shape, tensor.dtype, *few), [])
        for other, values in others:
            if values.data_ptr() != tensor.data_ptr() and torch.equal(values, tensor):
                raise UserError(FORGOTTEN[0].format(some([other, name])), FORGOTTEN[1])
        others.append((name, tensor))
