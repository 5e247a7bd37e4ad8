"""Many points of a tiny model in one pass: where calling a layer costs more than what it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from acutance.model.conditions import conditions

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

AT_ONCE = 64  # points of one pass
SMALL, FEW = 1 << 16, 1 << 10  # parameters and examples of a model whose passes are mostly overhead
# What is as good in a batch of weights as alone. Convolutions become grouped ones, which are slower; attention and
# modules that look at values cannot be batched at all. What a module holds is looked at one by one.
PLAIN = (
    nn.Linear, nn.Flatten, nn.Sequential, nn.Identity, nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Softplus,
    nn.ELU, nn.LeakyReLU, nn.LayerNorm, nn.BatchNorm1d, nn.Dropout, nn.Softmax, nn.LogSoftmax,
)  # fmt: skip


def go_together(surface: LossSurface) -> bool:
    """Return whether many points of a surface are best passed at once: told by its structure, not by a clock.

    So the same surface takes the same path on every machine.
    """
    core = surface.core
    functional = core.functional
    return (
        surface.size <= SMALL
        and not surface.moves_in_place
        and core.n <= FEW
        and core.in_one_pass
        and core.arithmetic == "exact"
        and isinstance(core.inputs, Tensor)
        and not functional.hooked
        and all(type(module) in PLAIN for module in functional.model.modules())
    )


class ManyPoints:
    """Rows of points w, (k, p), of a tiny surface, and the logits there from one pass.

    Args:
        surface: one of which points ``go_together``.
        points: how many there will be; no more rows than that are held.
    """

    def __init__(self, surface: LossSurface, points: int = AT_ONCE) -> None:
        self._surface = surface
        self.rows = surface.w.new_empty(min(points, AT_ONCE), surface.w.numel())

    def place(self, row: int, x: Tensor, c: Tensor | None, scale: float) -> None:
        """Write w* + scale c x, with x and c (p,), into a row."""
        if c is None:
            torch.add(self._surface.w, x, alpha=scale, out=self.rows[row])
        else:
            torch.addcmul(self._surface.w, c, x, value=scale, out=self.rows[row])

    def raw_logits(self, k: int) -> Tensor:
        """Return the model's own logits at the first k rows, (k, n, K); k forwards."""
        surface, core, parameters = self._surface, self._surface.core, self._surface.parameters
        surface.check()
        functional = core.functional
        moved = parameters.split(self.rows[:k])
        free = [piece.view(k, *slot.shape) for piece, slot in zip(moved, parameters.free_slots, strict=True)]
        whole = functional.parameters.shaped(functional.w)
        pieces = parameters.merged(whole, free)
        batched = [None if piece is fixed else 0 for piece, fixed in zip(pieces, whole, strict=True)]
        with conditions(functional, arithmetic=core.arithmetic):
            logits: Tensor = torch.func.vmap(
                lambda *points: functional(points, core.inputs), in_dims=tuple(batched)
            )(*pieces)  # fmt: skip
        core.book(forwards=k * core.n)
        return logits
