"""Derivatives by the inputs: of the loss of each example, or of a combination of its logits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.checks.input_secants import refuse_untracked_inputs, tracked
from acutance.data.batch import floating
from acutance.data.lazy import realised
from acutance.errors import Unsupported, UserError
from acutance.model.conditions import conditions
from acutance.surface.core import Core

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface


def input_gradient(surface: LossSurface, u: Tensor | None) -> Any:
    """Return the derivatives by the inputs, in their form; see ``LossSurface.input_gradient``."""
    core = surface.core
    _refuse(core, surface, u)
    pieces, parts, start = surface.pieces(surface.w), [], 0
    for inputs, targets in core.chunks(as_given=True):
        leaves: list[Tensor] = []
        given = floating(realised(inputs), partial(tracked, leaves=leaves))
        if not leaves:
            raise Unsupported("the inputs are whole numbers, tokens say, by which nothing can be differentiated")
        with conditions(core.functional, order=1), core.functional.holding(pieces):
            outputs = surface.transform(core.functional(pieces, given))
            if u is None:
                # The sum over the examples of the losses that ``losses`` gives: each depends on its own inputs alone.
                total = core.head.part(outputs, targets, core.n) * (1 if core.head.sums else core.n)
            else:
                total = (outputs * u[start : start + len(outputs)].to(outputs)).sum()
            if not total.requires_grad:
                raise Unsupported("the model gives no derivative by its inputs: it cuts them off (detach, no_grad)")
            grads = torch.autograd.grad(total, leaves, allow_unused=True)
        whole = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]
        parts.append(_in_form(given, iter(whole)))
        start += len(targets)
    core.book(forwards=core.n, backwards=core.n)
    surface.memo("input secants", lambda: refuse_untracked_inputs(core))
    return _joined(parts)


def _refuse(core: Core, surface: LossSurface, u: Tensor | None) -> None:
    if core.mixes_examples:
        raise Unsupported(
            "the derivative by an example's inputs is not its own for this model: its output for an example depends on "
            "the other examples of the batch"
        )
    if u is None:
        _ = surface.targets
    elif len(u) != core.n:
        raise UserError(f"u has {len(u)} rows, this surface has {core.n} examples")


def _in_form(inputs: Any, grads: Any) -> Any:
    """Return gradients in the form of the inputs; None where there is none."""
    if isinstance(inputs, Mapping):
        return {key: _in_form(value, grads) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_in_form(value, grads) for value in inputs)
    return next(grads) if isinstance(inputs, Tensor) and inputs.is_floating_point() else None


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(column)) for column in zip(*parts, strict=True))
    return None if first is None else torch.cat(parts)
