"""Quantized checkpoints, refused by name: rounded weights have no derivatives, and no perturbation moves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acutance.errors import UserError

SECTIONS = ("quantization_config", "compression_config")  # of config.json, today's and that of older compressed-tensors


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
