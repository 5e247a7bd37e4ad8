"""A point that moves over a loss surface: laid out as the model's parameters once, evaluated many times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.core import Evaluation
from acutance.derivatives import gradients, plain_arithmetic

if TYPE_CHECKING:
    from acutance.surface import LossSurface


class Probe:
    r"""A point :math:`w^* + s\, c \odot x` of a loss surface, whose parts the model sees as its parameters.

    A search moves it again and again: a pass then costs the pass, without a new vector and new views each time.

    Args:
        surface: where to evaluate; passes are booked there.
        c: (p,) scaling, or None for ones.
        w: (p,) memory of the point, holding a first one; new memory by default.
    """

    def __init__(self, surface: LossSurface, c: Tensor | None = None, w: Tensor | None = None) -> None:
        self._surface, self._core, self._c = surface, surface._core, c
        self.w = torch.empty_like(surface.w) if w is None else w.detach()
        shapes = [slot.shape for slot in self._core.functional.slots]
        pieces = surface._all_pieces(self.w)
        self._pieces = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        # Each parameter is a leaf of its own: the gradient is put together once, outside the graph.
        self._leaves = [self._pieces[i].requires_grad_() for i in surface._free]
        self._places = [leaf.detach() for leaf in self._leaves]
        self._units = None if c is None else list(surface.unflatten(c).values())
        self._start = self.w.data_ptr()
        self._end = self._start + self.w.numel() * self.w.element_size()

    def move(self, x: Tensor, scale: float = 1.0) -> Probe:
        """Go to w* + scale c x, x (p,)."""
        if self._c is None:
            torch.add(self._surface.w, x, alpha=scale, out=self.w)
        else:
            torch.addcmul(self._surface.w, self._c, x, value=scale, out=self.w)
        return self

    @torch.no_grad()
    def raw_logits(self) -> Tensor:
        """Return the model's own logits, (n, K)."""
        self._surface._check()
        core = self._core
        with plain_arithmetic(core.functional.device):
            logits = [core.functional(self._pieces, inputs) for inputs, _ in core.chunks()]
        core.book(forwards=core.n)
        return self._apart(logits[0]) if len(logits) == 1 else torch.cat(logits)

    def value(self) -> Evaluation:
        """Return loss and logits; one forward over the batch."""
        raw = self.raw_logits()
        with torch.no_grad():
            return Evaluation(self._surface.loss_of(raw), raw)

    def gradient(self, out: Tensor | None = None) -> Evaluation:
        r"""Return loss, logits and the gradient in the coordinates x, :math:`c \odot \nabla L_S`.

        One forward and one backward over the batch.

        Args:
            out: (p,) memory of the gradient, new by default; may be ``w`` itself, when the point has served.
        """
        self._surface._check()
        core = self._core
        chunks = tuple(core.chunks())
        if out is None:
            out = torch.empty_like(self.w)
        # With microbatches the point has to last until the last of them.
        total = torch.empty_like(out) if out is self.w and len(chunks) > 1 else out
        places = self._places if total is self.w else list(self._surface.unflatten(total).values())
        with torch.enable_grad(), plain_arithmetic(core.functional.device):
            parts = [self._share(inputs, targets, places, i, len(chunks)) for i, (inputs, targets) in enumerate(chunks)]
        core.book(forwards=core.n, backwards=core.n)
        if len(parts) == 1:
            return Evaluation(*parts[0], out)
        if self._c is not None:
            torch.mul(total, self._c, out=out)
        elif total is not out:
            out.copy_(total)
        losses, logits = zip(*parts, strict=True)
        return Evaluation(torch.stack(losses).sum(), torch.cat(logits), out)

    def _share(self, inputs: Any, targets: Tensor, places: list[Tensor], i: int, chunks: int) -> tuple[Tensor, Tensor]:
        """Return the share of microbatch i in the loss, and its logits; write its gradient, or add it."""
        core = self._core
        raw = core.functional(self._pieces, inputs)
        loss = core.head.mean(self._surface._transform(raw), targets)
        if chunks > 1:
            loss = loss * (len(targets) / core.n)
        # Apart from the point, before its memory becomes the gradient's.
        logits = self._apart(raw.detach())
        found = [self._apart(g) for g in gradients(loss, self._leaves)]
        if i > 0:
            torch._foreach_add_(places, found)
        elif self._units is None or chunks > 1:
            torch._foreach_copy_(places, found)
        else:
            for place, g, unit in zip(places, found, self._units, strict=True):
                torch.mul(g, unit, out=place)
        return loss.detach(), logits

    def _apart(self, tensor: Tensor) -> Tensor:
        """Return the tensor, copied if it lies in the memory of the point, which will move."""
        return tensor.clone() if self._start <= tensor.data_ptr() < self._end else tensor
