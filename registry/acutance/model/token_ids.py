"""Whether tokens fit: to a model by vocabulary and positions, to a loss by what is padding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from acutance.errors import Misfit


def require_tokens(model: nn.Module, inputs: Any) -> None:
    """Refuse tokens that a transformer has no embedding for, or no positions; one forward over a few would not tell.

    Asked of models with ``get_input_embeddings`` and of inputs with ``input_ids``; all else goes unseen.

    Args:
        model: the module.
        inputs: of all points.

    Raises:
        Misfit: saying what runs how far.
    """
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    embeddings = getattr(model, "get_input_embeddings", None)
    if not isinstance(ids, Tensor) or ids.is_floating_point() or not ids.numel() or not callable(embeddings):
        return
    try:
        weight = embeddings().weight
    except (AttributeError, NotImplementedError):
        return
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= len(weight):
        known = f"{len(weight)} (0 to {len(weight) - 1})"
        raise Misfit(
            f"token ids run from {low} to {high}, but the model's vocabulary has {known}",
            "give the tokenizer that belongs to the model",
        )
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < ids.shape[-1]:
        raise Misfit(
            f"rows of {ids.shape[-1]} tokens are longer than the model's {positions} positions",
            "give shorter ones: lower the dataset's block or max_length",
        )


def padded_targets(inputs: Any, targets: Tensor) -> str:
    """Return a warning of targets at places of padding, which a loss may count; empty where there are none.

    Args:
        inputs: of all points; asked for an ``attention_mask`` of the targets' shape.
        targets: all targets.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.shape != targets.shape or targets.is_floating_point():
        return ""
    count = int(((mask == 0) & (targets >= 0)).sum())
    if not count:
        return ""
    return (
        f"{count} targets stand where attention_mask is 0: if your loss counts them, padding is part of it; write -100 "
        "there if that is what it leaves out"
    )


def counted_padding(model: nn.Module, inputs: Any, outputs: Callable[[Any], Tensor]) -> str:
    """Return a warning where padding before a text moves the positions of its tokens; empty where it does not.

    A transformer with learned positions counts them from the first column on unless it is given ``position_ids``; one
    with relative or rotary ones, or that counts by the mask, has the same outputs either way. One row tells.

    Args:
        model: the module; asked whether it takes ``position_ids``.
        inputs: of all points; asked for a two-dimensional ``attention_mask`` beside ``input_ids``.
        outputs: of some inputs, (n, ...).
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or not isinstance(ids, Tensor) or mask.dim() != 2 or mask.shape != ids.shape:
        return ""
    left = ((mask != 0).cumsum(dim=1) == 0) & (mask != 0).any(dim=1, keepdim=True)
    if "position_ids" in inputs or not left.any() or not _takes_positions(model):
        return ""
    at = int(left.sum(dim=1).argmax())
    row = {name: t[at : at + 1] if isinstance(t, Tensor) else t for name, t in inputs.items()}
    counted = ((row["attention_mask"] != 0).cumsum(dim=1) - 1).clamp_min(0)
    given, by_mask = outputs(row), outputs({**row, "position_ids": counted})
    if given.dim() == 3 and given.shape[:2] == ids[:1].shape:
        seen = row["attention_mask"][0] != 0
        given, by_mask = given[:, seen.to(given.device)], by_mask[:, seen.to(by_mask.device)]
    rounding = max(1e-3, 4 * torch.finfo(given.dtype).eps)
    if bool(((given - by_mask).abs().max() <= rounding * given.abs().max()).item()):
        return ""
    rows = int(left.any(dim=1).sum())
    return (
        f"{rows} rows are padded on the left, and the model counts positions from the padding on: values depend on how "
        "much there is; pad on the right, or give position_ids, (attention_mask.cumsum(1) - 1).clamp(min=0)"
    )


def _takes_positions(model: nn.Module) -> bool:
    try:
        return "position_ids" in inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # a forward that no Python function is
        return False
