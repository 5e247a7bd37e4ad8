"""Langevin dynamics of the weights in a tempered, localized posterior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_classic.learning_coefficient import PRODUCTS

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.learning_coefficient import LearningCoefficientSpec

POINTS = 200  # of a trace, at most
REACH = 1e-3  # length of its differences, in units of the weights
STABLE = 0.2  # step in units of 1/(n beta h + gamma): the variance of the stiffest direction is 5 % too large


@torch.no_grad()
def stable_step(view: LossSurface, n_beta: float, localization: float, rng: Streams) -> float:
    """Return the step at which the chains are stable in the stiffest direction: ``PRODUCTS`` gradients.

    Raises:
        Unsupported: where nothing limits it.
    """
    stiffness = n_beta * largest_curvature(view, rng) + localization
    if stiffness == 0:
        raise Unsupported("neither the loss nor the localization draws a chain back: no step follows; give one")
    return STABLE / stiffness


def largest_curvature(view: LossSurface, rng: Streams) -> float:
    """Return the largest absolute eigenvalue of the Hessian, by powers of differences of gradients; NaN for none."""
    _, g = view.gradient()
    size = float(torch.linalg.vector_norm(view.w, dtype=torch.float64))
    point, v, curvature, length = view.moving_point(), rng.normal("curvature", 0, view.w), 0.0, REACH * (size or 1.0)
    v.div_(torch.linalg.vector_norm(v))
    for _ in range(PRODUCTS):
        moved = point.move(v, length).gradient().gradient
        assert moved is not None
        v = moved.sub_(g).div_(length)
        curvature = float(torch.linalg.vector_norm(v, dtype=torch.float64))
        if not 0 < curvature < math.inf:
            break
        v.div_(curvature)
    return curvature


@torch.no_grad()
def chains(view: LossSurface, spec: LearningCoefficientSpec, step: float, n_beta: float, rng: Streams) -> Tensor:
    """Return the losses after every step of every chain, (chains, steps) float64; NaN from where a chain has left."""
    losses = torch.full((spec.chains, spec.steps), math.nan, dtype=torch.float64)
    for c in range(spec.chains):
        walk(view, (step, spec.localization), n_beta, rng.child(c), losses[c])
        if not bool(losses[c].isfinite().all()):
            break
    return losses


def walk(view: LossSurface, pull: tuple[float, float], n_beta: float, rng: Streams, losses: Tensor) -> None:
    r"""Walk one chain from the weights, pulled by (epsilon, gamma); note the loss after every step, (steps,).

    .. math:: \delta \leftarrow (1 - \tfrac12 \epsilon\gamma)\, \delta
       - \tfrac12 \epsilon\, n\beta\, \nabla L(w^* + \delta) + \sqrt\epsilon\, \xi
    """
    (step, localization), gradient = pull, view.clean_gradient().gradient
    point, delta, noise = view.moving_point(), torch.zeros_like(view.w), torch.empty_like(view.w)
    with point.held():
        for k in range(len(losses)):
            assert gradient is not None
            rng.normal("step", k, view.w, out=noise)
            delta.mul_(1 - step * localization / 2)
            delta.add_(gradient, alpha=-step * n_beta / 2).add_(noise, alpha=math.sqrt(step))
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


def trends(rises: Tensor) -> list[float]:
    """Return by how much each chain's values, (chains, draws), change over its draws: the slope of a straight line."""
    t = torch.arange(rises.shape[1], dtype=rises.dtype)
    t = t - t.mean()
    changes: list[float] = (rises @ t / t.square().sum().clamp_min(1e-30) * len(t)).tolist()
    return changes
