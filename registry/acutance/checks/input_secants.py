r"""Whether the derivative of a model by its inputs is one: found from differences, as ``secants`` does by its weights.

A part of the inputs that is detached or read past automatic differentiation, inputs that are rounded and differentiated
as if they were not, or a backward pass of one's own may be right in every parameter behind them. Inputs and weights
are moved a little first: in pixels that are all the same, maxima and ReLUs have ties, where there is no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.checks.secants import FLAT, ROUNDED, SEED, SHARE, STEPS, steady
from acutance.checks.tracking import NEAR, Ledger, away, few_examples, near
from acutance.data.batch import floating
from acutance.errors import Untracked, lacks_memory
from acutance.model.conditions import conditions

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel
    from acutance.surface.core import Core

WRONG = (
    "the gradient of the model by its inputs is not the derivative (a part of them is detached or read by numpy, they "
    "are rounded, or a backward pass is of your own): let automatic differentiation record all of the forward pass"
)


def refuse_untracked_inputs(core: Core) -> None:
    """Refuse derivatives by the inputs where they would be wrong; passes over a few examples, booked as checks.

    A model that float64 cannot evaluate is not judged: float32 leaves too much to kinks and rounding.

    Raises:
        Untracked: saying so.
    """
    rows, inputs = few_examples(core)
    try:
        double = core.functional.in_type(torch.float64)
        pieces = [piece.double() for piece in near(core.functional)]
        wrong = _wrong(double, pieces, double.cast_inputs(inputs), Ledger(core, rows).book)
    except (RuntimeError, TypeError) as error:
        if lacks_memory(error):
            raise
        return
    if wrong:
        raise Untracked(WRONG)


def tracked(x: Tensor, leaves: list[Tensor]) -> Tensor:
    """Return a tensor as a leaf of a graph, and add it to the leaves."""
    leaves.append(x.detach().requires_grad_())
    return leaves[-1]


def _wrong(functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any, book: Callable[[int], None]) -> bool:
    """Return whether differences along a random direction of the inputs exceed the gradient, alike at two lengths."""
    seeds, leaves = count(SEED), list[Tensor]()
    given = floating(floating(inputs, lambda x: away(x, next(seeds), NEAR)), partial(tracked, leaves=leaves))
    with conditions(functional, order=1), functional.holding(pieces):
        raw = functional(pieces, given)
        generator = torch.Generator(raw.device).manual_seed(SEED)
        u = torch.randn(raw.shape, generator=generator, dtype=torch.float64, device=raw.device)
        phi = (u * raw.double()).sum()
        grads = torch.autograd.grad(phi, leaves, allow_unused=True) if phi.requires_grad else [None] * len(leaves)
    gradient = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]
    direction = [away(x.detach(), next(seeds), 1.0) - x.detach() for x in leaves]
    size = float((u * raw.detach()).norm())
    spread = float(sum((g * d).square().sum() for g, d in zip(gradient, direction, strict=True))) ** 0.5
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    book(3)

    def moved(by: float) -> Any:
        parts = iter(direction)
        return floating(given, lambda x: x.detach() + by * next(parts))

    def excess(step: float) -> float:
        t, ends = step * min(size / max(spread, FLAT * size), 1.0), []
        for sign in (t, -t):
            with conditions(functional):
                ends.append(float((u * functional(pieces, moved(sign))).sum()))
        book(2)
        found = (ends[0] - ends[1]) / (2 * t) - slope
        resolved = abs(found) * 2 * t > ROUNDED * torch.finfo(torch.float64).eps * size
        least = SHARE[torch.float64] * max(spread, FLAT * size)
        return found if isfinite(found) and resolved and abs(found) > least else 0.0

    if not size or not isfinite(size + spread):
        return False
    short, long = STEPS[torch.float64]
    found = excess(long)
    return bool(found) and steady(found, excess(short))
