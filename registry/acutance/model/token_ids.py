"""Whether token ids belong to a model: all of them are in its vocabulary, and no row is longer than its positions."""

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
