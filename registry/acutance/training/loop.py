"""Training networks in the paper's way, deterministically: for pools that train on first use."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.data.batch import channels_first
from acutance.errors import UserError
from acutance.io.checkpoint_files import read_content
from acutance.model.layouts import needs_channels_first
from acutance.system.kept import preserved_rng
from acutance.training.recipe import Recipe, learning_rate_at

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Trained:
    """The outcome of a training run.

    Attributes:
        loss: mean training loss of the last epoch, as optimized (with mixup and augmentation).
        seconds: time it took.
        epochs: epochs completed.
        diverged: whether the loss stopped being finite; the weights are then those before that step.
        log: one row an epoch: ``step`` (steps made), ``epoch``, ``train_loss`` (mean over the epoch, as optimized),
            ``learning_rate`` and ``gradient_norm`` of its last step.
    """

    loss: float
    seconds: float
    epochs: int
    diverged: bool
    log: tuple[Mapping[str, float], ...] = ()


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
    precision: Precision = "float32",
    repeats: int = 1,
    resume: Path | None = None,
) -> Trained:
    """Train a classifier in place; the same recipe gives bitwise the same weights on the same machine.

    Args:
        model: module returning logits; trained where it is.
        inputs: (n, ...) training inputs, on the model's device.
        targets: (n,) class indices.
        recipe: settings.
        augmentation: (batch, generator) -> batch, applied when the recipe says ``augment``.
        on_epoch: called with (epoch, mean loss).
        precision: bfloat16 runs the passes in mixed precision; weights and gradients stay float32.
        repeats: augmented versions of each image in a batch, which grows by this factor, when the recipe augments.
        resume: file that is written after every epoch and read at the start, so that an interrupted training goes on
            with the next epoch to the same weights. It is there until the caller deletes it.

    Raises:
        UserError: when the recipe augments and no augmentation is given, or ``resume`` belongs to another training.
    """
    if recipe.augment and augmentation is None:
        raise UserError("the recipe augments, but no augmentation is given")
    start = time.perf_counter()
    device = inputs.device
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    n = len(targets)
    per_epoch = math.ceil(n / recipe.batch_size)
    total = recipe.epochs * per_epoch
    done = Progress() if resume is None else _load_progress(resume, recipe, model, optimizer)
    first, mean, before, log = done.epoch, done.mean, done.seconds, list(done.log)
    model.train()
    channel_by_channel = device.type == "cpu" and needs_channels_first(model)
    epoch = first
    for epoch in range(first, recipe.epochs):
        # One generator an epoch: an interrupted run goes on from any epoch with the same noise.
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        losses: list[Tensor] = []
        for i, rows in enumerate(torch.randperm(n, generator=generator).to(device).split(recipe.batch_size)):
            x, y = inputs[rows], targets[rows]
            if recipe.augment and augmentation is not None:
                if repeats > 1:
                    x, y = x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0)
                x = augmentation(x, generator)
            x = channels_first(x) if channel_by_channel else x
            loss_of = objective(model, *mixed(x, y, recipe.mixup, generator), precision)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(recipe, epoch * per_epoch + i, total)
            losses.append(sam_gradient(model, parameters, loss_of, recipe.sam_rho))
            # Only a CPU can be asked after every step: a GPU would be waited for.
            if device.type == "cpu" and not math.isfinite(float(losses[-1])):
                model.eval()
                return Trained(float(losses[-1]), before + time.perf_counter() - start, epoch, True, tuple(log))
            optimizer.step()
        mean = math.fsum(torch.stack(losses).tolist()) / len(losses)
        if not math.isfinite(mean):
            break
        log.append(_row(epoch, (epoch + 1) * per_epoch, mean, optimizer))
        if resume is not None:
            seconds = before + time.perf_counter() - start
            _save_progress(resume, recipe, model, optimizer, Progress(epoch + 1, mean, seconds, tuple(log)))
        if on_epoch is not None:
            on_epoch(epoch, mean)
    model.eval()
    finite = all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point())
    diverged = not (finite and math.isfinite(mean))
    epochs = recipe.epochs if not diverged else epoch
    return Trained(mean, before + time.perf_counter() - start, epochs, diverged, tuple(log))


def _row(epoch: int, step: int, loss: float, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return a row of the log: the gradients are those of the step that was made last."""
    (group,) = optimizer.param_groups
    norms = [torch.linalg.vector_norm(p.grad) for p in group["params"] if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(norms)))
    row = {"step": step, "epoch": epoch + 1, "train_loss": loss, "learning_rate": group["lr"], "gradient_norm": norm}
    return {name: float(value) for name, value in row.items()}


@dataclass(frozen=True)
class Progress:
    """How far a training has come: the next epoch, the last one's mean loss, the seconds spent, the log."""

    epoch: int = 0
    mean: float = math.nan
    seconds: float = 0.0
    log: tuple[Mapping[str, float], ...] = ()


def _save_progress(
    path: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, done: Progress
) -> None:
    """Write all that the next epoch needs, all or nothing."""
    state = {"recipe": recipe.full(), "model": model.state_dict(), "optimizer": optimizer.state_dict(), **asdict(done)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _load_progress(path: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Return how far the training had come, with model and optimizer as they were.

    Raises:
        UserError: for a file that is damaged or of another recipe.
    """
    if not path.is_file():
        return Progress()
    try:
        state = read_content(path)
        if state["recipe"] != recipe.full():
            raise UserError(f"{path}: is the training of another recipe", "delete it to train from the start")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        log = tuple(dict(row) for row in state.get("log", ()))  # files of before have none
        return Progress(int(state["epoch"]), float(state["mean"]), float(state["seconds"]), log)
    except UserError as error:
        raise UserError(error.message, "delete it to train from the start") from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).split("\n")[0].split(". ")[0]
        raise UserError(f"{path}: cannot be read: {reason}", "delete it to train from the start") from None


def mixed(x: Tensor, y: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    r"""Return (:math:`\lambda x + (1-\lambda) x'`, y, y', lambda) with :math:`\lambda \sim Beta(\alpha, \alpha)`.

    The partner is the batch in another order; alpha = 0 mixes nothing.
    """
    if alpha == 0:
        return x, y, y, 1.0
    # A Beta variable is the share of one of two Gamma variables; Johnk's method needs only uniforms.
    lam = _beta(alpha, generator)
    order = torch.randperm(len(y), generator=generator).to(y.device)
    return torch.lerp(x[order], x, lam), y, y[order], lam


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Johnk: u^(1/a), v^(1/a) given that they sum to at most one (any a > 0; efficient for a <= 1)."""
    while True:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).pow(1 / alpha).tolist()
        if 0 < u + v <= 1:
            return float(u / (u + v))


def objective(
    model: nn.Module, x: Tensor, y: Tensor, other: Tensor, lam: float, precision: Precision = "float32"
) -> Callable[[], Tensor]:
    """Return the function giving the mixed cross-entropy of one batch."""

    def loss() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x)
        logits = logits.float() if precision == "bfloat16" else logits
        if lam == 1.0:
            return F.cross_entropy(logits, y)
        return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, other)

    return loss


def sam_gradient(model: nn.Module, parameters: list[Tensor], loss_of: Callable[[], Tensor], rho: float) -> Tensor:
    r"""Set ``.grad`` to the SAM gradient :math:`\nabla L(w + \rho\, g/\|g\|)`, :math:`g = \nabla L(w)`; return L(w).

    With rho = 0 it is the plain gradient. Weights are those of before when it returns; batch-norm statistics
    are updated by the pass at w only.
    """
    loss = loss_of()
    grads = torch.autograd.grad(loss, parameters)
    loss = loss.detach()
    if rho > 0:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        moves = torch.isfinite(loss) & (norm > 0)
        on_host = norm.device.type == "cpu"  # a GPU is not waited for: there the step is zero where it cannot be made
        if not on_host or bool(moves):
            saved = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                if on_host:
                    torch._foreach_add_(parameters, grads, alpha=rho / float(norm))
                else:
                    torch._foreach_add_(parameters, torch._foreach_mul(grads, torch.where(moves, rho / norm, 0.0)))
            with frozen_statistics(model):
                grads = torch.autograd.grad(loss_of(), parameters)
            with torch.no_grad():
                torch._foreach_copy_(parameters, saved)
    for parameter, g in zip(parameters, grads, strict=True):
        parameter.grad = g
    return loss


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
