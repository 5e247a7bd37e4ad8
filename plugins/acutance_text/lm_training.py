"""Training a language model on blocks of tokens with AdamW and SAM, deterministically."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.system.kept import preserved_rng
from acutance.training import Trained, sam_gradient
from acutance.training.recipe import Recipe, learning_rate_at
from acutance_text.finetuning import adamw

if TYPE_CHECKING:
    from acutance_text.trained_lm import LanguageRecipe


def train_on_blocks(model: nn.Module, ids: Tensor, recipe: LanguageRecipe) -> Trained:
    r"""Train a language model in place; the same recipe gives bitwise the same weights on the same machine.

    Each step descends the gradient :math:`\nabla L(w + \rho g / \|g\|)` of SAM (Foret et al. 2021, Eq. 2 to 4), the
    plain one for :math:`\rho = 0`, cut at a norm of 1, by AdamW; matrices decay, vectors (biases, gains) do not.

    Args:
        model: of transformers, in evaluation mode and without dropout.
        ids: (n, L) blocks of tokens on the model's device.
        recipe: settings.

    Returns:
        What came of it; its log has a row an epoch, whose gradient is that of the last step, before it was cut.
    """
    start = time.perf_counter()
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(parameters, recipe.learning_rate, recipe.weight_decay)
    n, size = len(ids), recipe.batch_size
    total = recipe.epochs * math.ceil(n / size)
    schedule = Recipe(learning_rate=recipe.learning_rate, epochs=recipe.epochs, warmup=recipe.warmup)
    mean, step = math.nan, 0
    log: list[Mapping[str, float]] = []
    with preserved_rng():
        for epoch in range(recipe.epochs):
            generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + epoch) % 2**63)
            losses = []
            for chosen in torch.randperm(n, generator=generator).split(size):
                losses.append(
                    sam_gradient(model, parameters, loss_of(model, ids[chosen.to(ids.device)]), recipe.sam_rho)
                )
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


def loss_of(model: nn.Module, blocks: Tensor) -> Callable[[], Tensor]:
    """Return the function giving the mean loss of the next tokens of a few blocks."""

    def loss() -> Tensor:
        logits = model(input_ids=blocks).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), blocks[:, 1:].flatten())

    return loss
