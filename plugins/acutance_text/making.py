"""Models of transformers made from a folder in the Hugging Face layout, and filled with its weights, where they lie."""

from __future__ import annotations

import re
import tempfile
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from acutance.errors import UserError, refuse_unfit_torchvision, some
from acutance.io.checkpoints import load_state, mismatch
from acutance.io.stored import floating_kind, stored_in
from acutance_text.choosing import taking_choices
from acutance_text.converting import Converted, named_as_now, refuse_quantized

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
CAUSAL, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
_NUMBERED = re.compile(r"LABEL_\d+", re.IGNORECASE)  # what a config calls outputs without names

DeviceMap = Literal["auto"] | dict[str, str | int]  # where modules lie


def weights_file(folder: Path) -> Path:
    """Return the file that holds a folder's weights, or lists the files that do."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no weights", f"one of {', '.join(WEIGHTS)} must lie beside config.json")


def loaded(auto: str, folder: Path, attention: str) -> nn.Module:
    """Return the model of a folder with its weights, of which no second copy is held meanwhile.

    They have the type of those in the file, whatever the config says; of several types the one that holds all exactly.
    Where tensors of the file are merged or split for the model (experts, say), transformers does it, all at once.

    Args:
        auto: the class of transformers that makes the model from its config.
        folder: with a config and weights.
        attention: as for ``make``.

    Raises:
        UserError: for weights that cannot be read or do not fit.
    """
    from acutance.io.streaming import streamed

    file = weights_file(folder)
    refuse_quantized(file.parent)
    try:
        return streamed(file, lambda kind: make(auto, file.parent, attention, kind), named_as_now)
    except Converted:
        pass  # outside of the handler, which keeps the model that was made so far
    return _pretrained(auto, file, attention, "", {})


def make(auto: str, folder: Path, attention: str, kind: torch.dtype | None = None) -> nn.Module:
    """Return a model made from a folder's config, with weights still random; the global generator is left as it was.

    A classifier whose config has words for its outputs has them as ``class_names``.

    Args:
        auto: the class of transformers that makes it.
        folder: with the config.
        attention: its implementation, sdpa or eager.
        kind: type of its weights; that of the config by default.

    Raises:
        UserError: for a model that transformers does not know; code inside the folder is never run.
    """
    import torch
    import transformers

    refuse_quantized(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        name = _name_of_kind(config)
        setattr(config, name, kind or getattr(config, name))
        # Old transformers do not ask the config, so buffers would have another type than the weights.
        named = {name: getattr(config, name)}
        with torch.random.fork_rng():
            model: nn.Module = getattr(transformers, auto).from_config(config, attn_implementation=attention, **named)
    except RuntimeError as error:
        refuse_unfit_torchvision(error)
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"{folder}: cannot be made: its config asks for a tensor that memory does not hold",
            "its sizes may be those of another model: give the config.json that belongs to the weights",
        ) from None
    except (ValueError, KeyError, OSError, ImportError) as error:
        refuse_unfit_torchvision(error)
        raise UserError(f"{folder}: cannot be made: {str(error).splitlines()[0]}", f"it must fit {auto}") from None
    if auto == CLASSIFIER:
        vars(model)["class_names"] = class_names(config)
    if auto == CAUSAL:
        taking_choices(model)
    return model.eval()


def _name_of_kind(config: Any) -> str:
    """Return what the installed transformers call the type of a model's weights."""
    return "dtype" if hasattr(config, "dtype") else "torch_dtype"


def class_names(config: Any) -> tuple[str, ...]:
    """Return a config's words for the outputs, in their order; none where it only numbers them."""
    words = getattr(config, "id2label", None) or {}
    names = tuple(str(words[i]) for i in sorted(words))
    return () if any(_NUMBERED.fullmatch(name) for name in names) else names


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Copy weights into a model: old names are understood, tied weights may be there once.

    Raises:
        UserError: as ``load_state``.
    """
    return load_state(model, named_as_now(state, model), where)


def require_devices(device_map: DeviceMap | None) -> None:
    """Refuse a map before anything is loaded: without accelerate, or with a device that is not there.

    Raises:
        UserError: saying which are there.
    """
    if device_map is None:
        return
    if find_spec("accelerate") is None:
        raise UserError(
            "device_map: modules are put on devices by accelerate, which is not installed",
            "pip install 'accelerate>=1', or the extra 'dispatch'",
        )
    if device_map == "auto":
        return
    if not device_map:
        raise UserError("device_map: names no module", "write auto, or {'': cpu} for the whole model")
    there = devices()
    for module, device in device_map.items():
        name = str(device)
        if (f"cuda:{name}" if name.isdecimal() else "cuda:0" if name == "cuda" else name) not in there:
            whole = f"module '{module}'" if module else "the model"
            raise UserError(f"device_map: {whole} is to lie on '{device}', which is not there", some(there))


def devices() -> list[str]:
    """Return where modules can be put on this machine."""
    import torch

    accelerators = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", "disk", *accelerators, *(["mps"] if torch.backends.mps.is_available() else [])]


def loaded_apart(auto: str, folder: Path, attention: str, device_map: DeviceMap) -> nn.Module:
    """Return the model of a folder with its weights where a map says, hooks of accelerate bringing them together.

    They have the type of those in the file, as of ``loaded``. What safetensors hold stays in their
    files where it is put on the disk; other weights are written to a temporary folder, which goes with the model.

    Args:
        auto: the class of transformers.
        folder: with a config and weights.
        attention: as for ``make``.
        device_map: as transformers takes it: where each module lies, or auto.

    Raises:
        UserError: for weights that cannot be read or do not fit, and a map that does not fit the model.
    """
    require_devices(device_map)
    file = weights_file(folder)
    refuse_quantized(file.parent)
    aside = tempfile.TemporaryDirectory(prefix="acutance-offloaded-", ignore_cleanup_errors=True)
    placed = {"device_map": device_map, "offload_folder": aside.name}
    model = _pretrained(auto, file, attention, " with device_map", placed)
    weakref.finalize(model, aside.cleanup)
    _require_modules(model, device_map)
    return model


def _pretrained(auto: str, file: Path, attention: str, way: str, settings: Mapping[str, Any]) -> nn.Module:
    """Return a model as transformers loads it, in the type of its file; what it would only warn of is refused."""
    import torch
    import transformers

    folder = file.parent
    kind = floating_kind(stored_in(file).values())
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        named: dict[str, Any] = {_name_of_kind(config): kind or "auto"}
        with torch.random.fork_rng():
            model, found = getattr(transformers, auto).from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False, attn_implementation=attention,
                output_loading_info=True, **named, **settings,
            )  # fmt: skip
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        refuse_unfit_torchvision(error)
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder}: cannot be loaded{way}: {said}", f"it must fit {auto}") from None
    shapes = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in found.get("mismatched_keys", ())]
    problem = mismatch(sorted(found.get("missing_keys", ())), sorted(found.get("unexpected_keys", ())), shapes)
    if problem:
        raise UserError(f"{folder}: does not fit the architecture: {problem}", f"it must fit {auto}")
    if auto == CLASSIFIER:
        vars(model)["class_names"] = class_names(config)
    if auto == CAUSAL:
        taking_choices(model)
    whole: nn.Module = model.eval()
    return whole


def _require_modules(model: nn.Module, device_map: DeviceMap) -> None:
    """Refuse a map with names that no module has: what they were meant for lies elsewhere."""
    if not isinstance(device_map, Mapping):
        return
    known = {name for name, _ in [*model.named_modules(), *model.named_parameters()]}
    if unknown := [name for name in device_map if name not in known]:
        children = [name for name, _ in model.named_children()]
        raise UserError(f"device_map: the model has no module {some(unknown)}", f"it has {some(children)}")
