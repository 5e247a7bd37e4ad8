"""Whether tokens fit: to a model by vocabulary and positions, to a loss by what is padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
