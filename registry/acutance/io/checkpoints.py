"""Loading a user's checkpoint safely, with one sentence when it does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from acutance.errors import UserError, did_you_mean, some
from acutance.io.checkpoint_files import AVERAGE, is_checkpoint, states_in
from acutance.io.data_files import read_points

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

# Left among the weights by wrappers of modules: compilation, and averaging.
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
BOOKKEEPING = ("n_averaged",)


def read_state(path: Path, key: str = "") -> dict[str, Tensor]:
    """Return the likeliest state of a model that a checkpoint file holds, its names as they stand.

    Args:
        path: .safetensors, .npz, or what ``torch.save`` wrote; nothing in the file is executed.
        key: where in it the state lies, as ``ema.model``; usual wrappers (``state_dict`` ...) need no naming.

    Raises:
        UserError: for a missing, damaged or hostile file, or one without tensors.
    """
    return next(iter(states_in(path, key).values()))


def load_file(model: nn.Module, path: Path, key: str = "", prefix: str = "") -> nn.Module:
    """Copy a file's weights into a model; every name, shape and kind of number must fit.

    Where a file holds several states, the first one whose names fit is taken; that another one fits as well (an average
    of the weights, say) is told as a note of the model.

    Args:
        model: of the right architecture.
        path: the file.
        key: where in it the state lies, as ``ema.model``.
        prefix: taken off the names that begin with it; the others are left out.

    Raises:
        UserError: for a file that cannot be read, or the first names that do not fit.
    """
    states = states_in(path, key)
    if prefix:
        states = {name: _only(prefix, state) for name, state in states.items()}
        if not any(states.values()):
            names = list(next(iter(states_in(path, key).values())))
            raise UserError(f"{path}: no name begins with '{prefix}'", f"its names are: {some(names)}")
    fitting = [at for at, state in states.items() if fits(model, state)]
    chosen = (fitting or list(states))[0]
    others = [at for at in fitting[1:] if not _equal(states[at], states[chosen])]
    try:
        load_state(model, states[chosen], f"{path}: '{chosen}'" if chosen and len(states) > 1 else str(path))
    except UserError as error:
        more = [at for at in states if at != chosen and at]
        raise UserError(error.message, error.hint + (f"; the file also holds {some(more)}" if more else "")) from None
    if others:
        told = f"the weights are those under '{chosen}'" if chosen else "the weights are those at the top of the file"
        note(model, f"{told}; it also holds {some([at or 'others at its top' for at in others])}, which fits too (key)")
    elif chosen and _averaged(chosen) and not key:
        note(model, f"the weights are the average under '{chosen}': the file has no others that fit")
    return model


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Copy a state dict into a model; every name, shape and kind of number must fit.

    A prefix that all names share is taken off where the names then fit and did not before (``fitted``). Of tied weights
    one is enough.

    Raises:
        UserError: naming what is missing, unexpected, of another shape, or no plain numbers of the right kind.
    """
    import torch

    everything = model.state_dict()
    own = {name: tensor for name, tensor in everything.items() if isinstance(tensor, torch.Tensor)}
    found = fitted(model, state)
    places = {own[name].data_ptr(): name for name in found if name in own and own[name].numel()}
    tied = {
        name: found[places[tensor.data_ptr()]]
        for name, tensor in own.items()
        if name not in found and tensor.data_ptr() in places and own[places[tensor.data_ptr()]].shape == tensor.shape
    }
    found = found | tied
    missing = [name for name in own if name not in found]
    unexpected = [name for name in found if name not in own]
    shapes = [
        f"{name} is {tuple(found[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in found and not found[name].is_nested and found[name].shape != own[name].shape
    ]
    if problem := mismatch(missing, unexpected, shapes):
        raise UserError(f"{where}: does not fit the architecture: {problem}", advice(own, found))
    wrong = [f"{name} {fault}" for name in own if (fault := _no_weights(found[name], own[name]))]
    if wrong:
        raise UserError(f"{where}: does not hold the weights: {some(wrong)}", "save the weights as plain float tensors")
    rounded = [name for name in own if _rounded(found[name], own[name])]
    model.load_state_dict(found, strict=len(own) == len(everything))
    if fresh := [name for name in everything if name not in own]:
        note(model, f"what is no tensor in the state of the model is that of a new one: {some(fresh)}")
    if rounded:
        kinds = sorted({f"{_kind(found[name])} to {_kind(own[name])}" for name in rounded})
        note(model, f"weights are rounded as they are loaded ({', '.join(kinds)}): {some(rounded)}")
    return model.eval()


def note(model: nn.Module, sentence: str) -> None:
    """Keep a sentence about how a model was loaded with it; a surface of the model has it among its notes."""
    vars(model).setdefault("load_notes", []).append(sentence)


def fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state has a tensor for every parameter, tied ones under one of their names, and no others."""
    found = fitted(model, state)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return set(found) <= set(model.state_dict()) and all(any(name in found for name in tied) for tied in names.values())


def fitted(model: nn.Module, state: Mapping[str, T]) -> dict[str, T]:
    """Return a state with the names that the model has, where taking off prefixes gives them; else as it stands.

    Tried in turn: the names as they stand; without the counter of an average; without what compilation and sharding put
    into them; without the first part that all of them share (``module.``, ``model.`` ...), again and again.
    """
    own = set(model.state_dict()) | {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names = {name: name for name in state}
    for tried in _renamings(names):
        # A name that the model does not know is left: the names do not fit, whatever else is missing.
        if tried and set(tried.values()) <= own:
            return {to: state[name] for name, to in tried.items()}
    return dict(state)


def _renamings(names: dict[str, str]) -> Iterator[dict[str, str]]:
    yield names
    names = {name: to for name, to in names.items() if to not in BOOKKEEPING}
    yield names
    for part in INSIDE:
        names = {name: to.replace(part, "") for name, to in names.items()}
    yield names
    while (first := _shared_part(list(names.values()))) is not None:
        names = {name: to.removeprefix(first) for name, to in names.items()}
        yield names


def _shared_part(names: Sequence[str]) -> str | None:
    """Return the first part that all names share, with its dot; None where they share none."""
    parts = {name.partition(".")[0] for name in names if "." in name}
    return f"{parts.pop()}." if len(parts) == 1 and all("." in name for name in names) else None


def advice(own: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return what to do about names that do not fit: the prefix under which more of them would, if there is one."""
    parts = sorted({name[: i + 1] for name in found for i, letter in enumerate(name) if letter == "."})
    counts = {part: len(set(_only(part, found)) & set(own)) for part in parts}
    best = max(counts, key=lambda part: counts[part], default="")
    if best and counts[best] > len(set(found) & set(own)):
        return f"{counts[best]} names fit without '{best}': say so by the prefix {best}"
    return "it was saved from another architecture, or with another number of classes"


def _only(prefix: str, state: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _no_weights(tensor: Tensor, own: Tensor) -> str:
    """Return why a tensor cannot be the values of one of the model's; empty where it can."""
    import torch

    if tensor.is_quantized or "float8" in str(tensor.dtype):
        return f"is quantized ({_kind(tensor)})"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return "is nested" if tensor.is_nested else f"is stored as {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_meta:
        return "has no values (it is on the device meta)"
    if tensor.is_complex() and not own.is_complex():
        return f"is complex, the model's is {_kind(own)}"
    if own.is_floating_point() and not tensor.is_floating_point():
        return f"holds whole numbers ({_kind(tensor)}), codes perhaps; the model's is {_kind(own)}"
    if not own.is_floating_point() and not own.is_complex() and bool((tensor.to(own.dtype) != tensor).any()):
        return f"is {_kind(tensor)} with values that {_kind(own)}, the model's kind, does not have"
    return ""


def _rounded(tensor: Tensor, own: Tensor) -> bool:
    """Whether a floating-point tensor loses digits in the model's own kind of number."""
    if not tensor.is_floating_point() or tensor.dtype == own.dtype:
        return False
    return not bool(((tensor.to(own.dtype).to(tensor.dtype) == tensor) | tensor.isnan()).all())


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _averaged(key: str) -> bool:
    return AVERAGE.search(key) is not None


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same values under the same names."""
    import torch

    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def mismatch(missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]) -> str:
    """Return in a few words why a state does not fit a model; empty when it does."""
    found = {"missing": missing, "unexpected": unexpected, "shape": shapes}
    return "; ".join(f"{kind}: {some(names)}" for kind, names in found.items() if names)


def make_model(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a model by name.

    Args:
        name: ``package.module:function`` (called with the arguments), ``timm:NAME`` or
            ``torchvision:NAME``; without pretrained weights.
        arguments: keyword arguments.

    Raises:
        UserError: when there is no such model, or it cannot be made.
    """
    from torch import nn

    module, _, attribute = name.partition(":")
    if module == "timm":
        import timm

        if not timm.is_model(attribute):
            raise UserError(f"timm has no model '{attribute}'", "see timm.list_models()")
        try:
            model: Any = timm.create_model(attribute, pretrained=False, **arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"model '{name}' cannot be made: {error}", "check its arguments") from None
        return model.eval()  # type: ignore[no-any-return]
    if module == "torchvision":
        return _torchvision(attribute, arguments)
    if not attribute and is_checkpoint(name):
        raise UserError(
            f"model '{name}' is a file of weights, which does not say of which network",
            f"give the network as package.module:function, timm:NAME or torchvision:NAME, and --weights {name}",
        )
    if not attribute:
        raise UserError(
            f"model '{name}' is not understood",
            "write package.module:function, timm:NAME, torchvision:NAME or POOL/ENTRY",
        )
    try:
        found = import_module(module)
        make = getattr(found, attribute, None)
        if make is None:
            public = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
            raise UserError(f"model '{name}': module {module} has no '{attribute}'", did_you_mean(attribute, public))
    except ImportError as error:
        raise UserError(f"model '{name}' cannot be made: {error}", "is the module importable from here?") from None
    try:
        model = make(**arguments)
    except Exception as error:  # a user's code: whatever it raises is theirs to mend
        raise UserError(
            f"model '{name}' cannot be made: {module}.{attribute} raises {type(error).__name__}: {error}",
            "call it by itself, with these arguments, and mend what it says",
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model '{name}' gave {type(model).__name__}", "it must return a torch.nn.Module")
    return model.eval()


def _torchvision(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise UserError(f"model 'torchvision:{name}' cannot be made: {error}", "pip install torchvision") from None
    if name not in models.list_models():
        raise UserError(f"torchvision has no model '{name}'", did_you_mean(name, models.list_models()))
    try:
        model: nn.Module = models.get_model(name, weights=None, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"model 'torchvision:{name}' cannot be made: {error}", "check its arguments") from None
    return model.eval()


def read_arrays(path: Path) -> tuple[Tensor, Tensor]:
    """Return (inputs, targets) of an .npz or .safetensors file with arrays inputs/targets, x/y or images/labels.

    Raises:
        UserError: for a file that is missing, unreadable or lacks these names.
    """
    return read_points(path)


def all_arrays(path: Path) -> dict[str, Tensor]:
    """Return every array of an .npz or .safetensors file, by name.

    Raises:
        UserError: for a file that is missing or unreadable.
    """
    import numpy as np
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: dict[str, Tensor] = load_file(path)
            return found
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except Exception as error:
        raise UserError(f"{path}: cannot be read: {error}", "give .npz or .safetensors with plain arrays") from None


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Return {key: value} of ``key=value`` texts, values read as JSON where they are JSON."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"{option} {pair}: write key=value")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
