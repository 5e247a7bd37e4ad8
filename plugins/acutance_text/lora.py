"""Adapters in PEFT's file format: what an ``adapter_config.json`` and its tensors say, as far as it is understood."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, some
from acutance.io.checkpoints import read_state

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Settings that say how an adapter was made and change nothing of what it computes, or that are read below.
UNDERSTOOD = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "lora_bias",
    "fan_in_fan_out", "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "init_lora_weights", "runtime_config", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip
# Ways to begin that leave the base as it is; others (pissa, olora, corda, loftq) have changed it.
BEGUN = (True, False, None, "gaussian", "eva", "orthogonal")
PREFIX = "base_model.model."
_PART = re.compile(r"(.+)\.lora_(?:(embedding_)?(A|B)(?:\.(weight|bias))?)$")


@dataclass
class LowRank:
    r"""The change :math:`s\, B A` of one module.

    Attributes:
        scale: s.
        a: (r, inputs), of an embedding (r, tokens).
        b: (outputs, r).
        bias: (outputs,) of B, or None.
        embeds: whether the module is an embedding.
    """

    scale: float
    a: Tensor
    b: Tensor
    bias: Tensor | None = None
    embeds: bool = False


@dataclass
class Adapter:
    """What lies in an adapter's folder.

    Attributes:
        folder: its folder.
        config: its settings.
        changes: low-rank changes by the names of the base's modules.
        whole: tensors that take the place of the base's: modules to save, and biases.
    """

    folder: Path
    config: Mapping[str, Any]
    changes: dict[str, LowRank] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter.

    Raises:
        UserError: where they cannot be read, or say what is not understood, by its name.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: is no config of an adapter", "it must be JSON with a 'peft_type'") from None
    hint = (
        "merge it into its base with peft (merge_and_unload, save_pretrained) and give the result to the pool 'causal'"
    )
    if kind != "LORA":
        raise UserError(f"{file}: adapters of the kind {kind} are not understood, only LORA", hint)
    other = [name for name, value in config.items() if value and name not in UNDERSTOOD]
    if other:
        raise UserError(f"{file}: {some(other)}: this kind of LoRA is not understood", hint)
    if config.get("init_lora_weights") not in BEGUN:
        way = config["init_lora_weights"]
        raise UserError(f"{file}: init_lora_weights: {way} changes the base too, which is not understood", hint)
    return dict(config)


def read_adapter(folder: Path) -> Adapter:
    """Return an adapter with its tensors.

    Raises:
        UserError: for a file that is missing, or tensors that belong to no low-rank change.
    """
    adapter = Adapter(folder, read_config(folder))
    file = adapter_file(folder)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_state(file).items():
        name = key.removeprefix(PREFIX)
        found = _PART.match(name)
        if found:
            kind = f"{found[3]}{'.bias' if found[4] == 'bias' else ''}"
            parts.setdefault(found[1], {})[kind] = tensor
            parts[found[1]] |= {"embeds": tensor} if found[2] else {}
        elif ".lora_" in name:
            raise UserError(f"{file}: '{key}' is not understood", "DoRA and other variants of LoRA are not")
        else:
            adapter.whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor
    for name, tensors in parts.items():
        adapter.changes[name] = _change(name, tensors, adapter.config, file)
    if not adapter.changes and not adapter.whole:
        raise UserError(f"{file}: has no tensors", "save the adapter again")
    return adapter


def adapter_file(folder: Path) -> Path:
    """Return the file that holds an adapter's weights.

    Raises:
        UserError: when there is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no weights", f"one of {', '.join(WEIGHTS)} must lie beside {CONFIG}")


def _change(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> LowRank:
    a, b = tensors.get("A"), tensors.get("B")
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != b.shape[1] or "A.bias" in tensors:
        shapes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in tensors.items() if part != "embeds")
        hint = "a change of a linear layer or an embedding has A (r, inputs) and B (outputs, r)"
        raise UserError(f"{file}: '{name}' has {shapes}, which is no low-rank change of a matrix", hint)
    beside = "the two files are of different adapters: save the adapter again"
    if not _is_target(name, config.get("target_modules")):
        raise UserError(f"{file}: changes '{name}', which is none of the target_modules of {CONFIG}", beside)
    rank = _fitting(name, config.get("rank_pattern"), config.get("r", len(a)))
    if rank != len(a):
        raise UserError(f"{file}: '{name}' has rank {len(a)}, and {CONFIG} says {rank}", beside)
    return LowRank(scale_of(name, len(a), config), a, b, tensors.get("B.bias"), "embeds" in tensors)


def scale_of(name: str, rank: int, config: Mapping[str, Any]) -> float:
    r"""Return the factor s of a module's change: :math:`\alpha / r`, or :math:`\alpha / \sqrt r` with ``use_rslora``.

    Alpha is that of the first pattern of ``alpha_pattern`` that the end of the module's name matches, else
    ``lora_alpha`` (Hu et al. 2022, Section 4.1; Kalajdzievski 2023).
    """
    alpha = float(_fitting(name, config.get("alpha_pattern"), config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _fitting(name: str, patterns: Mapping[str, Any] | None, otherwise: Any) -> Any:
    """Return the value of the first pattern that the end of a module's name matches."""
    fits = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(fits, otherwise)


def _is_target(name: str, targets: Any) -> bool:
    """Return whether a module is one that an adapter changes: by the end of its name, or a pattern for all of it."""
    if targets is None or targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
