"""What is kept of a pass: all its logits, or, of large ones in microbatches, the loss and which examples are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from acutance.surface.core import Core
    from acutance.surface.loss_surface import LossSurface

LARGE = 1 << 28  # bytes of the logits of all examples that are not held where their loss is a sum over microbatches


def keeps_logits(core: Core) -> bool:
    r"""Return whether passes hold the logits of all examples; told by the model, the points and the microbatch alone.

    A loss with a name, or one of (losses, weights), is the sum of what microbatches contribute. The logits of a
    language model, (n, L, V), would be the largest thing held: then none outlives its microbatch. Of a loss of one's
    own that gives a mean the parts are held against the whole, so its logits are kept.
    """
    few = core.few_logits
    if few is None or core.in_one_pass or not core.labelled:
        return True
    if callable(core.head.loss) and core.head.weight is None:
        return True
    return core.n * (few.numel() // len(few)) * few.element_size() < LARGE


class Tally:
    """Losses under several transforms, and errors, summed up microbatch by microbatch.

    Args:
        surface: whose points.
        views: of it, that differ in what the loss sees of the logits; none where errors alone are wanted.
    """

    def __init__(self, surface: LossSurface, views: Sequence[LossSurface]) -> None:
        self._surface, self._views, self._core = surface, views, surface.core
        self._parts: list[list[Tensor]] = [[] for _ in views]
        self._errors: list[Tensor] = []

    def add(self, raw: Tensor, targets: Tensor) -> None:
        """Take the logits of a microbatch, (k, ...), with its targets."""
        for view, parts in zip(self._views, self._parts, strict=True):
            parts.append(self._core.head.part(view.transform(raw), targets, self._core.n))
        self._errors.append(noted(self._surface, raw, targets))

    def all(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> Tally:
        """Take every microbatch of a pass, holding one."""
        for raw, targets in chunks:
            self.add(raw, targets)
            del raw
        return self

    @property
    def losses(self) -> list[Tensor]:
        """The loss of all examples under each view, 0-d float64."""
        return [torch.stack(parts).sum() for parts in self._parts]

    @property
    def note(self) -> Tensor:
        """(n,) errors; (0,) where none is defined."""
        return torch.cat(self._errors)


def noted(surface: LossSurface, raw: Tensor, targets: Tensor) -> Tensor:
    """Return (k,) errors of a microbatch's logits, all that is kept of them; (0,) where none is defined."""
    return surface.core.errors(raw, targets) if surface.has_errors else raw.new_empty(0)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass says under several transforms.

    Attributes:
        losses: under each, 0-d float64.
        note: (n, K) raw logits; (n,) errors, or (0,), where logits are not kept. ``errors_noted`` reads both.
    """

    losses: list[Tensor]
    note: Tensor
