"""Whether the gradient of a loss of one's own in the outputs is its derivative; the model makes no pass for it.

And whether products with its Hessian are those of the gradient, which measures of curvature use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import torch
from torch import Tensor

from acutance.checks.secants import steady
from acutance.model.derivatives import coarsest, gradient_graph, gradients, graph_nodes
from acutance.model.losses import LossHead

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
WRONG_TWICE = (
    "the second derivative of your loss in the model's outputs is not that of its gradient (a backward pass of its own "
    "that uses constants, or a detached part), while the gradient is right: make that pass of torch's operations"
)
ROUNDED = 2e-8  # of the gradient, that differences of it by rounding may be, over the closer length

Comparison = Callable[[LossHead, Tensor, Tensor, Sequence[Tensor]], bool | None]


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
    return WRONG if _first_answer(_is_wrong, head, logits, targets) else ""


def product_objection(head: LossHead, logits: Tensor, targets: Tensor) -> str:
    """Return why products with the Hessian of a function of the user's would be wrong; empty where they are right.

    As ``objection``, in float64 alone: a function that does not take it is not looked at.
    """
    return WRONG_TWICE if _first_answer(_product_is_wrong, head, logits, targets) else ""


def _first_answer(compare: Comparison, head: LossHead, logits: Tensor, targets: Tensor) -> bool:
    """Return the answer at the first point and in the first dtype that the function takes."""
    outputs, targets = logits.detach().cpu().double(), targets.cpu()
    generator = torch.Generator().manual_seed(0)
    size = float(outputs.square().mean().sqrt())
    for centre, unit, near in ((torch.zeros_like(outputs), 1.0, 1.0), (outputs, size, NEAR)):
        noise = [
            unit * torch.randn(outputs.shape, generator=generator, dtype=torch.float64) for _ in range(DIRECTIONS + 1)
        ]
        point = centre + near * noise.pop()
        for kind in (torch.float64, logits.dtype):
            try:
                wrong = compare(head, point.to(kind), targets, [direction.to(kind) for direction in noise])
            except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError):
                # Tensors of another dtype or device, outputs out of range.
                continue
            if wrong is not None:
                return wrong
    return False


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


def _product_is_wrong(head: LossHead, point: Tensor, targets: Tensor, directions: Sequence[Tensor]) -> bool | None:
    """Return whether differences of the gradient are something else than products with the Hessian, at two lengths."""
    gradient, leaf, value = _gradient_at(head, point, targets)
    if not bool(value.isfinite()):
        return None
    names = {node.name() for node in graph_nodes(gradient.grad_fn)}
    fine = value.requires_grad and coarsest(value) <= torch.finfo(torch.float64).eps
    if not fine or "torch::autograd::Error" in names:  # the product itself says that it does not exist
        return False
    differ = 0
    for direction in directions:
        product = torch.zeros_like(leaf)
        if gradient.requires_grad:
            (product,) = torch.autograd.grad(
                gradient, leaf, direction, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        short, long = (
            (_gradient_at(head, point + t * direction, targets)[0] - gradient).detach() / t - product
            for t in (CLOSE, 10 * CLOSE)
        )
        least = max(SHARE * float(product.norm()), ROUNDED * float(gradient.detach().norm()))
        differ += float(short.norm()) > least and float((long - short).norm()) <= SHARE * 10 * float(short.norm())
    return differ >= 2


def _gradient_at(head: LossHead, point: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient with its graph, the outputs that it is taken in, and the loss."""
    leaf = point.detach().requires_grad_()
    with torch.enable_grad():
        value = head.value(leaf, targets)
        return gradient_graph(value, leaf), leaf, value


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
