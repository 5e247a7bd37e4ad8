"""Gradients of a sharded model, which its own backward pass reduces over the processes: to each its part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from acutance.errors import Unsupported, some
from acutance.model.derivatives import seed_of
from acutance.model.dtensors import groups_of, part_of, part_of_gradient
from acutance.model.parameters import Parameters
from acutance.model.ties import GATHER
from acutance.model.weights import EXACT

HOOKS = "_post_accumulate_grad_hooks"
FACTORS = ("gradient_divide_factor", "reduce_scatter_divide_factor")  # as torch calls it, and did


class PartsOfGradients:
    """The part of a sharded model that differentiates."""

    parameters: Parameters
    settle: Callable[[], None]
    _tensors: list[Any]
    _modules: list[nn.Module]

    def refuse_gradient(self, free: Sequence[int], kind: torch.dtype) -> None:
        """Refuse gradients that a backward pass of the sharded model does not give, or that would have other effects.

        Args:
            free: the parameters.
            kind: of the weights.

        Raises:
            Unsupported: saying what to do; the same in every process.
        """
        if kind not in EXACT:
            name = str(kind).removeprefix("torch.")
            raise Unsupported(
                f"a gradient of sharded weights in {name} is not taken, since what rounding does to it is told by a "
                "whole copy in float32: shard float32 weights, or " + GATHER
            )
        tensors, slots = self._tensors, self.parameters.slots
        if fixed := [slots[i].name for i in free if not tensors[i].requires_grad]:
            raise Unsupported(
                f"a backward pass of the sharded model gives no gradient in {some(fixed)} (requires_grad=False): leave "
                "these out with 'parameters', or let them require one before the model is sharded"
            )
        if hooked := [slots[i].name for i, p in enumerate(tensors) if getattr(p, HOOKS, None)]:
            raise Unsupported(
                f"something steps or listens when the gradient of {some(hooked)} is there "
                "(register_post_accumulate_grad_hook, an optimizer within the backward pass): take its hooks off first"
            )
        groups = [group for module in self._modules for group in groups_of(module)]
        if any(not group.reduce_grads for group in groups):
            raise Unsupported(
                "gradients are not reduced over the processes: call set_requires_gradient_sync(True), when no "
                "accumulated gradient waits for its step"
            )
        if any(getattr(group, name, None) is not None for group in groups for name in FACTORS):
            raise Unsupported(
                "gradients are divided by a factor that was set (set_gradient_divide_factor), and no derivatives of "
                "the loss: shard the model without it"
            )

    def gradients_into(
        self, loss: Tensor, free: Sequence[int], put: Callable[[int, Tensor], object], seed: Tensor | None = None
    ) -> list[int]:
        """Hand out this process's parts of the gradient of a 0-d loss; return the places that it did not reach.

        The gradients that the parameters had are there again afterwards.

        Args:
            loss: with its graph, which is used up.
            free: the parameters.
            put: called with the place among these and the part, flat; zeros where the loss does not depend on it.
            seed: as of ``derivatives.gradients``.
        """
        tensors, missing = self._tensors, []
        before = [p.grad for p in tensors]
        try:
            for p in tensors:
                p.grad = None
            if loss.requires_grad:
                loss.backward(seed_of(loss) if seed is None else seed)
            self.settle()
            with torch.no_grad():
                for place, i in enumerate(free):
                    g, p = tensors[i].grad, tensors[i]
                    tensors[i].grad = None
                    missing += [place] if g is None else []
                    part = torch.zeros_like(part_of(p)) if g is None else part_of_gradient(g, p)
                    put(place, part.reshape(-1))
        finally:
            # What a pass that failed left on gathered parameters would be added to the next one.
            for module in self._modules:
                for p in module.parameters(recurse=False):
                    p.grad = None
            for p, g in zip(tensors, before, strict=True):
                p.grad = g
        return missing
