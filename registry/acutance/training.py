"""Training networks in the paper's way, deterministically: for pools that train on first use."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.errors import UserError
from acutance.evaluation import preserved_rng
from acutance.recipe import Recipe, learning_rate_at

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Trained:
    """What became of a training run.

    Attributes:
        loss: mean training loss of the last epoch, as optimized (with mixup and augmentation).
        seconds: time it took.
        epochs: epochs completed.
        diverged: whether the loss stopped being finite; the weights are then those before that step.
    """

    loss: float
    seconds: float
    epochs: int
    diverged: bool


def initialised(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return ``build()`` with the initial weights of a seed, leaving the global generators alone."""
    with preserved_rng():
        torch.manual_seed(seed)
        return build()


def train(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    augmentation: Augmentation | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train a classifier in place; the same recipe gives bitwise the same weights on the same machine.

    Args:
        model: module returning logits; trained where it is.
        inputs: (n, ...) training inputs, on the model's device.
        targets: (n,) class indices.
        recipe: settings.
        augmentation: (batch, generator) -> batch, applied when the recipe says ``augment``.
        on_epoch: called with (epoch, mean loss).

    Raises:
        UserError: when the recipe augments and no augmentation is given.
    """
    if recipe.augment and augmentation is None:
        raise UserError("the recipe augments, but no augmentation is given")
    start = time.perf_counter()
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    n = len(targets)
    per_epoch = math.ceil(n / recipe.batch_size)
    total = recipe.epochs * per_epoch
    mean, step = math.nan, 0
    model.train()
    for epoch in range(recipe.epochs):
        # One generator an epoch: an interrupted run could go on from any epoch with the same noise.
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        losses = []
        for rows in torch.randperm(n, generator=generator).split(recipe.batch_size):
            x, y = inputs[rows], targets[rows]
            if recipe.augment and augmentation is not None:
                x = augmentation(x, generator)
            loss_of = objective(model, *mixed(x, y, recipe.mixup, generator))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(recipe, step, total)
            loss = sam_gradient(model, parameters, loss_of, recipe.sam_rho)
            if not math.isfinite(loss):
                model.eval()
                return Trained(loss, time.perf_counter() - start, epoch, True)
            optimizer.step()
            losses.append(loss)
            step += 1
        mean = math.fsum(losses) / len(losses)
        if on_epoch is not None:
            on_epoch(epoch, mean)
    model.eval()
    finite = all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point())
    return Trained(mean, time.perf_counter() - start, recipe.epochs, not finite)


def mixed(x: Tensor, y: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    r"""Return (:math:`\lambda x + (1-\lambda) x'`, y, y', lambda) with :math:`\lambda \sim Beta(\alpha, \alpha)`.

    The partner is the batch in another order; alpha = 0 mixes nothing.
    """
    if alpha == 0:
        return x, y, y, 1.0
    # A Beta variable is the share of one of two Gamma variables; Johnk's method needs only uniforms.
    lam = _beta(alpha, generator)
    order = torch.randperm(len(y), generator=generator)
    return torch.lerp(x[order], x, lam), y, y[order], lam


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Johnk: u^(1/a), v^(1/a) given that they sum to at most one (any a > 0; efficient for a <= 1)."""
    while True:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).pow(1 / alpha).tolist()
        if 0 < u + v <= 1:
            return float(u / (u + v))


def objective(model: nn.Module, x: Tensor, y: Tensor, other: Tensor, lam: float) -> Callable[[], Tensor]:
    """Return the function giving the mixed cross-entropy of one batch."""

    def loss() -> Tensor:
        logits = model(x)
        if lam == 1.0:
            return F.cross_entropy(logits, y)
        return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, other)

    return loss


def sam_gradient(model: nn.Module, parameters: list[Tensor], loss_of: Callable[[], Tensor], rho: float) -> float:
    r"""Set ``.grad`` to the SAM gradient :math:`\nabla L(w + \rho\, g/\|g\|)`, :math:`g = \nabla L(w)`; return L(w).

    With rho = 0 it is the plain gradient. Weights are those of before when it returns; batch-norm statistics
    are updated by the pass at w only.
    """
    loss = loss_of()
    grads = torch.autograd.grad(loss, parameters)
    value = float(loss.detach())
    if rho > 0 and math.isfinite(value):
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        if float(norm) > 0:
            saved = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                torch._foreach_add_(parameters, grads, alpha=rho / float(norm))
            with frozen_statistics(model):
                grads = torch.autograd.grad(loss_of(), parameters)
            with torch.no_grad():
                torch._foreach_copy_(parameters, saved)
    for parameter, g in zip(parameters, grads, strict=True):
        parameter.grad = g
    return value


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by the batch without touching running statistics."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
