"""Training a transformer with AdamW, deterministically."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.training import Trained
from acutance_text.epochs import descend

if TYPE_CHECKING:
    from acutance_text.finetuned import FineTuning


def finetune(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor, recipe: FineTuning) -> Trained:
    """Train a classifier in place; the same recipe gives bitwise the same weights on the same machine.

    Matrices decay, vectors (biases and normalization) do not; gradients are cut at a norm of 1 (Devlin et al. 2019).

    Args:
        model: of transformers; it takes the inputs by name and returns an output with ``logits``.
        inputs: tensors (n, L) on the model's device, with an ``attention_mask``.
        targets: (n,) class numbers.
        recipe: settings.

    Returns:
        What came of it; its log has a row an epoch, whose gradient is that of the last step, before it was cut.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    lengths = inputs["attention_mask"].sum(1).cpu()  # asked once: a GPU is not waited for at every step

    def order(seed: int) -> Tensor:
        torch.manual_seed(seed)  # of dropout too
        return torch.randperm(len(targets))

    def gradient(chosen: Tensor) -> Tensor:
        longest = int(lengths[chosen].max())  # what is padding in all of them is cut
        rows = chosen.to(targets.device)
        batch = {name: tensor[rows, :longest] for name, tensor in inputs.items()}
        loss = F.cross_entropy(model(**batch).logits.float(), targets[rows])
        model.zero_grad()
        loss.backward()
        return loss

    with dropout(model, recipe.dropout):
        return descend(parameters, len(targets), recipe, order, gradient)


@contextmanager
def dropout(model: nn.Module, p: float) -> Iterator[None]:
    """Train with this probability in every dropout layer; afterwards evaluate, with the probabilities of before.

    Args:
        model: module.
        p: probability; attention of transformers reads it from its layers too.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = p
    model.train()
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.p = was
        model.eval()
