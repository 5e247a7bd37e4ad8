"""Training transformers with AdamW, deterministically: classifiers, and language models on blocks with SAM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.system.kept import preserved_rng
from acutance.training import Trained, sam_gradient
from acutance.training.recipe import Recipe, learning_rate_at

if TYPE_CHECKING:
    from acutance_text.finetuned import FineTuning
    from acutance_text.trained_lm import LanguageRecipe


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
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def order(seed: int) -> Tensor:
        return torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))

    def gradient(chosen: Tensor) -> Tensor:
        return sam_gradient(model, parameters, loss_of(model, ids[chosen.to(ids.device)]), recipe.sam_rho)

    return descend(parameters, len(ids), recipe, order, gradient)


def loss_of(model: nn.Module, blocks: Tensor) -> Callable[[], Tensor]:
    """Return the function giving the mean loss of the next tokens of a few blocks."""

    def loss() -> Tensor:
        logits = model(input_ids=blocks).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), blocks[:, 1:].flatten())

    return loss


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
