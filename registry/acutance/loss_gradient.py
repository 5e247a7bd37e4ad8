"""Whether the gradient of a loss of one's own in the outputs is its derivative; the model makes no pass for it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from acutance.derivatives import coarsest, gradients
from acutance.losses import LossHead
from acutance.secants import steady

DIRECTIONS = 4
NEAR = 0.1  # how far from the outputs is looked, in units of theirs: away from kinks that lie just there
CLOSE = 1e-6  # length in float64: nothing is left of kinks there
SHARE = 0.01  # of the slope's spread that differences may exceed it by in float64
LONG, SHORT = 1e-2, 1e-3  # lengths in float32
LARGE = 0.05  # the same share in float32
SEEN, SEEN_CLOSELY = 1e-5, 1e-10  # changes of the loss, in units of its own, that are more than rounding in either
WRONG = (
    "the gradient of your loss in the model's outputs is not its derivative (a part of it is detached, or computed "
    "outside automatic differentiation), while its values are right: derivatives would be wrong; let the loss be "
    "differentiated as it is"
)


def objection(head: LossHead, logits: Tensor, targets: Tensor) -> str:
    """Return why derivatives of a function of the user's would be wrong; empty where they are right.

    Differences along random directions are compared with the gradient, as ``secants`` does for a model: at outputs of
    size 1, whatever those of the model are, and near the model's where the function takes no others (probabilities).
    All of it happens on the CPU: a GPU does not recover from outputs that a function refuses. What cannot be computed
    there, because the function holds tensors of the GPU, is not looked at.

    Args:
        head: of a function of the user's.
        logits: (k, ...) of a few examples.
        targets: theirs.
    """
    found, targets = logits.detach().cpu().double(), targets.cpu()
    generator = torch.Generator().manual_seed(0)
    size = float(found.square().mean().sqrt())
    for centre, unit, near in ((torch.zeros_like(found), 1.0, 1.0), (found, size, NEAR)):
        noise = [unit * torch.randn(found.shape, generator=generator, dtype=found.dtype) for _ in range(DIRECTIONS + 1)]
        point = centre + near * noise.pop()
        for kind in (torch.float64, logits.dtype):
            try:
                wrong = _is_wrong(head, point.to(kind), targets, [direction.to(kind) for direction in noise])
            except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError):
                # Tensors of another dtype or device, outputs out of range.
                continue
            if wrong is not None:
                return WRONG if wrong else ""
    return ""


def _is_wrong(head: LossHead, point: Tensor, targets: Tensor, directions: Sequence[Tensor]) -> bool | None:
    """Return whether differences are something else than the gradient; None where the loss is no number."""
    leaf = point.detach().requires_grad_()
    with torch.enable_grad():
        value = head.value(leaf, targets)
        (gradient,) = gradients(value, [leaf])
    if not bool(value.isfinite()):
        return None
    fine = value.requires_grad and coarsest(value) < torch.finfo(torch.float32).eps
    level = max(float(value.detach().abs()), 1.0)
    differ = 0
    for direction in directions:
        products = (gradient * direction).double()
        excess, spread = _Excess(head, leaf.detach(), targets, direction, float(products.sum())), float(products.norm())
        if fine:
            differ += excess.exceeds(CLOSE, max(SHARE * spread, SEEN_CLOSELY * level / CLOSE))
        else:
            differ += excess.stays(max(LARGE * spread, SEEN * level / LONG))
    return differ >= (2 if fine else DIRECTIONS)


class _Excess:
    """By how much differences along a direction exceed the slope."""

    def __init__(self, head: LossHead, point: Tensor, targets: Tensor, direction: Tensor, slope: float) -> None:
        self._head, self._point, self._targets, self._direction = head, point, targets, direction
        self._slope = slope

    def _at(self, step: float) -> float:
        with torch.no_grad():
            ends = [
                float(self._head.value(self._point + sign * step * self._direction, self._targets))
                for sign in (1.0, -1.0)
            ]
        excess = (ends[0] - ends[1]) / (2 * step) - self._slope
        return excess if isfinite(excess) else 0.0

    def exceeds(self, step: float, least: float) -> bool:
        return abs(self._at(step)) > least

    def stays(self, least: float) -> bool:
        long, short = self._at(LONG), self._at(SHORT)
        return abs(long) > least and steady(long, short)
