"""Epochs of AdamW with their log: what the training of classifiers and of language models has in common."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from acutance.system.kept import preserved_rng
from acutance.training import Trained
from acutance.training.recipe import Recipe, learning_rate_at


class Settings(Protocol):
    """What a recipe says of its epochs: see the pools' own."""

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def warmup(self) -> float: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def descend(
    parameters: Sequence[Tensor], n: int, recipe: Settings,
    order: Callable[[int], Tensor], gradient: Callable[[Tensor], Tensor],
) -> Trained:  # fmt: skip
    """Make the steps of all epochs, or of those up to the first whose loss is no number.

    Gradients are cut at a norm of 1; the global generator is put back afterwards.

    Args:
        parameters: what moves.
        n: examples of an epoch.
        recipe: settings.
        order: from the seed of an epoch to a permutation of the examples, (n,).
        gradient: leaves the gradient of the loss of some examples, (k,) indices, with the parameters, and returns the
            loss, 0-d.

    Returns:
        What came of it; its log has a row an epoch, whose gradient is that of the last step, before it was cut.
    """
    start = time.perf_counter()
    optimizer = adamw(parameters, recipe.learning_rate, recipe.weight_decay)
    total = recipe.epochs * math.ceil(n / recipe.batch_size)
    schedule = Recipe(learning_rate=recipe.learning_rate, epochs=recipe.epochs, warmup=recipe.warmup)
    mean, step = math.nan, 0
    log: list[Mapping[str, float]] = []
    with preserved_rng():
        for epoch in range(recipe.epochs):
            losses = []
            for chosen in order((recipe.seed * 1_000_003 + epoch) % 2**63).split(recipe.batch_size):
                losses.append(gradient(chosen).detach())
                norm = nn.utils.clip_grad_norm_(parameters, 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(schedule, step, total)
                optimizer.step()
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
