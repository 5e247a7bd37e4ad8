"""What stands between the tensors of a file and a model: other names, tensors to be merged, quantized weights.

Transformers describes by patterns how names (and, of some families, tensors: experts that become one) of a file are
those of its modules (``conversion_mapping`` and ``core_model_loading`` of version 5). Its patterns are applied here;
where more than a name changes, loading is left to transformers. Quantized checkpoints are refused by name: rounded
weights have no derivatives, and no perturbation moves them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from acutance.errors import UserError

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

SECTIONS = ("quantization_config", "compression_config")  # of config.json, today's and that of older compressed-tensors
_GONE = (".position_ids", ".attn.masked_bias")  # tables that were saved once


class Converted(UserError):
    """The tensors of a file are not those of the model under other names: transformers makes them anew as it loads."""


def named_as_now(state: Mapping[str, T], model: nn.Module) -> dict[str, T]:
    """Return a state with the names that transformers gives its tensors today, without tables that it no longer reads.

    Args:
        state: by the names of the file.
        model: of transformers; names of others are left as they are, but for those of layer norms.

    Raises:
        Converted: for a family of which transformers merges, splits or turns tensors of this state.
        UserError: for two tensors that would have one name.
    """
    expected = model.state_dict(keep_vars=True)
    # Names of checkpoints older than transformers 4.
    old = {name: re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name) for name in state}
    old = {name: re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", now) for name, now in old.items()}
    now = _renamed(old.values(), model, expected)
    found: dict[str, T] = {}
    unread = _unread(model)
    for name, tensor in state.items():
        new = now[old[name]]
        if new not in expected and (new.endswith(_GONE) or (unread(new) and not _ends_in(expected, new))):
            continue
        if new in found:
            kind = type(model).__name__
            raise UserError(f"{kind}: '{name}' and another tensor of the file are both '{new}'", "get the file again")
        found[new] = tensor
    return found


def _renamed(names: Iterable[str], model: nn.Module, expected: Mapping[str, Any]) -> dict[str, str]:
    """Return {name: the model's}, by the patterns of transformers and the prefix of its base models.

    Raises:
        Converted: where a tensor changes too, or this version says it in another way.
    """
    names = list(names)
    if not hasattr(model, "base_model_prefix"):
        return {name: name for name in names}
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    except ImportError:
        # Before version 5 only models of several parts had patterns, and the modules had the names of the files.
        if getattr(model, "_checkpoint_conversion_mapping", None):
            raise _converted(model, "") from None
        return {name: name for name in names}
    of_transformers: Any = model
    mapping = get_model_conversion_mapping(of_transformers) or []
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    if len(renamings) + len(converters) < len(mapping):
        raise _converted(model, "")
    prefix, found, own = str(model.base_model_prefix), dict[str, str](), dict(expected)
    for name in sorted(names, key=dot_natural_key):  # some patterns are on from the first name that has them
        new, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if new not in expected and name in expected:
            new, pattern = rename_source_key(name, [], [], prefix, own)
        if pattern is not None:
            raise _converted(model, name)
        found[name] = new
    return found


def _converted(model: nn.Module, name: str) -> Converted:
    said = f" ('{name}', for one)" if name else ""
    return Converted(
        f"{type(model).__name__}: transformers merges or splits tensors of the file{said}, which is not done here",
        "give the whole model to the pool causal or transformers, which leave it to transformers",
    )


def _unread(model: nn.Module) -> Callable[[str], bool]:
    """Return whether transformers passes over a name that the model does not have."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        patterns.append(r"rotary_emb\.inv_freq")  # of each layer once, of the model today
    return lambda name: any(re.search(pattern, name) for pattern in patterns)


def _ends_in(expected: Mapping[str, Any], name: str) -> bool:
    """Whether a name is one of the model's behind a prefix, which is taken off later."""
    parts = name.split(".")
    return any(".".join(parts[i:]) in expected for i in range(1, len(parts)))


def refuse_quantized(folder: Path) -> None:
    """Refuse a model whose config says that its weights are quantized.

    Args:
        folder: with a ``config.json``; what is wrong with the file is told elsewhere.

    Raises:
        UserError: naming the method and its bits, and how to get weights of floating point.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    named = [name for name in SECTIONS if isinstance(config, Mapping) and isinstance(config.get(name), Mapping)]
    if not named:
        return
    method = _method(config[named[0]])
    raise UserError(
        f"{folder}: its weights are quantized ({method}): they can neither be perturbed nor have derivatives",
        "measure the model that it was made of, or save its weights as floating point first: "
        "AutoModelForCausalLM.from_pretrained(FOLDER).dequantize().save_pretrained(OTHER)",
    )


def _method(section: Mapping[str, Any]) -> str:
    """Return what a section says: ``gptq, 4 bits``."""
    method = str(section.get("quant_method") or "")
    bits = section.get("bits") or section.get("w_bit")
    if section.get("load_in_4bit") or section.get("load_in_8bit"):
        method, bits = method or "bitsandbytes", 4 if section.get("load_in_4bit") else 8
    method = method or "by a method that its config does not name"
    return f"{method}, {bits} bits" if isinstance(bits, int) and not isinstance(bits, bool) else method
