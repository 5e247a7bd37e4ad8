"""Training a transformer with AdamW, deterministically."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.system.kept import preserved_rng
from acutance.training import Trained
from acutance.training.recipe import Recipe, learning_rate_at

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
    start = time.perf_counter()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(parameters, recipe.learning_rate, recipe.weight_decay)
    n, size = len(targets), recipe.batch_size
    total = recipe.epochs * math.ceil(n / size)
    schedule = Recipe(learning_rate=recipe.learning_rate, epochs=recipe.epochs, warmup=recipe.warmup)
    lengths = inputs["attention_mask"].sum(1).cpu()  # asked once: a GPU is not waited for at every step
    mean, step = math.nan, 0
    log: list[Mapping[str, float]] = []
    with preserved_rng(), dropout(model, recipe.dropout):
        for epoch in range(recipe.epochs):
            torch.manual_seed((recipe.seed * 1_000_003 + epoch) % 2**63)
            losses = []
            for chosen in torch.randperm(n).split(size):
                longest = int(lengths[chosen].max())  # what is padding in all of them is cut
                rows = chosen.to(targets.device)
                batch = {name: tensor[rows, :longest] for name, tensor in inputs.items()}
                loss = F.cross_entropy(model(**batch).logits.float(), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(parameters, 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(schedule, step, total)
                optimizer.step()
                losses.append(loss.detach())
                step += 1
            mean = float(torch.stack(losses).double().mean())
            if not math.isfinite(mean):
                return Trained(mean, time.perf_counter() - start, epoch, True, tuple(log))
            row = {"step": step, "epoch": epoch + 1, "train_loss": mean, "learning_rate": group["lr"]}
            log.append({name: float(value) for name, value in row.items()} | {"gradient_norm": float(norm)})
    return Trained(mean, time.perf_counter() - start, recipe.epochs, False, tuple(log))


def adamw(parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return the optimizer: matrices decay, vectors (biases, gains) do not."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


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
