"""Loading a user's checkpoint safely, with one sentence when it does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, did_you_mean, some

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "last", "net", "weights")


def read_state(path: Path, key: str = "") -> dict[str, Tensor]:
    """Return the state dict of a .safetensors or .pt file; nothing in the file is executed.

    A dict that wraps the state under a usual name (``state_dict``, ``model``, ``last`` ...) is unwrapped, and
    the prefix ``module.`` of DataParallel is taken off.

    Args:
        path: the file.
        key: where in it the state lies, as ``ema.model``; nothing is then unwrapped.

    Raises:
        UserError: for a missing, truncated or hostile file, or one without tensors.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error) or "Unsupported" in text:
            raise UserError(
                f"{path}: holds more than tensors and was not opened",
                "it could run code; save a plain state dict or safetensors",
            ) from None
        raise UserError(f"{path}: cannot be read as a checkpoint: {text}", "the file is damaged or truncated") from None
    for part in key.split(".") if key else ():
        known = [str(name) for name in state] if isinstance(state, Mapping) else []
        if part not in known:
            raise UserError(f"{path}: has no '{part}' of key '{key}'", did_you_mean(part, known))
        state = state[part]
    for name in () if key else WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise UserError(f"{path}: holds no tensors", "give a state dict")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Copy a state dict into a model; every name and shape must fit.

    Raises:
        UserError: naming what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problem := mismatch(missing, unexpected, shapes):
        raise UserError(
            f"{where}: does not fit the architecture: {problem}",
            "it was saved from another architecture, or with another number of classes",
        )
    model.load_state_dict(dict(state))
    return model.eval()


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
    if not attribute:
        raise UserError(
            f"model '{name}' is not understood",
            "write package.module:function, timm:NAME, torchvision:NAME or POOL/ENTRY",
        )
    try:
        model = getattr(import_module(module), attribute)(**arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"model '{name}' cannot be made: {error}", "is the module importable from here?") from None
    if not isinstance(model, nn.Module):
        raise UserError(f"model '{name}' gave {type(model).__name__}", "it must return a torch.nn.Module")
    return model.eval()


PAIRS = (("inputs", "targets"), ("x", "y"), ("images", "labels"))  # names that a pair of arrays may have


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
    arrays = all_arrays(path)
    for x, y in PAIRS:
        if x in arrays and y in arrays:
            targets = arrays[y]
            inputs = arrays[x] if not arrays[x].is_floating_point() else arrays[x].float()
            return inputs, targets.float() if targets.is_floating_point() else targets.long()
    raise UserError(f"{path}: has {sorted(arrays)}", "name the arrays inputs and targets")


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
