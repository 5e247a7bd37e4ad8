"""Langevin dynamics of the weights in a tempered, localized posterior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.learning_coefficient import LearningCoefficientSpec

POINTS = 200  # of a trace, at most


@torch.no_grad()
def chains(view: LossSurface, spec: LearningCoefficientSpec, n_beta: float, rng: Streams) -> Tensor:
    """Return the losses after every step of every chain, (chains, steps) float64; NaN from where a chain has left."""
    losses = torch.full((spec.chains, spec.steps), math.nan, dtype=torch.float64)
    for c in range(spec.chains):
        walk(view, spec, n_beta, rng.child(c), losses[c])
        if not bool(losses[c].isfinite().all()):
            break
    return losses


def walk(view: LossSurface, spec: LearningCoefficientSpec, n_beta: float, rng: Streams, losses: Tensor) -> None:
    r"""Walk one chain from the weights, and note the loss after every step, (steps,).

    .. math:: \delta \leftarrow (1 - \tfrac12 \epsilon\gamma)\, \delta
       - \tfrac12 \epsilon\, n\beta\, \nabla L(w^* + \delta) + \sqrt\epsilon\, \xi
    """
    gradient = view.clean_gradient().gradient
    point, delta, noise = view.moving_point(), torch.zeros_like(view.w), torch.empty_like(view.w)
    with point.held():
        for k in range(len(losses)):
            assert gradient is not None
            rng.normal("step", k, view.w, out=noise)
            delta.mul_(1 - spec.step * spec.localization / 2)
            delta.add_(gradient, alpha=-spec.step * n_beta / 2).add_(noise, alpha=math.sqrt(spec.step))
            point.move(delta)
            found = point.value() if k == len(losses) - 1 else point.gradient()
            gradient, losses[k] = found.gradient, found.loss
            if not bool(losses[k].isfinite()):
                return


def trace_of(losses: Tensor) -> dict[str, list[float]]:
    """Return the mean loss of the chains over their steps as a curve of few points."""
    every = math.ceil(losses.shape[1] / POINTS)
    y = losses.mean(0)[::every]
    return {"x": (torch.arange(len(y)) * every + 1).tolist(), "y": y.tolist()}
