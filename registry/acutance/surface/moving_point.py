"""A point that moves over a loss surface: laid out as the model's parameters once, evaluated many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from acutance.checks.parts import refuse_parts
from acutance.checks.smoothness import refuse_jumps
from acutance.data.batch import tensor
from acutance.errors import UserError
from acutance.model.conditions import Conditions, conditions, trackable
from acutance.model.derivatives import OverwrittenError, gradients, gradients_into
from acutance.numerics.units import Units, huge, large
from acutance.numerics.walks import moved, moved_along
from acutance.surface.core import Evaluation
from acutance.surface.readings import Seen, Tally, noted
from acutance.surface.replay import Replay, Work

if TYPE_CHECKING:
    from acutance.model.exchange import Exchange
    from acutance.surface.loss_surface import LossSurface
    from acutance.surface.pieces import Blocks


LARGE = 1 << 15  # elements of a parameter whose gradient is not worth copying on the CPU


class MovingPoint:
    r"""A point :math:`w^* + s\, c \odot x` of a loss surface, whose parts the model sees as its parameters.

    A search moves it again and again: a pass then costs the pass, without a new vector and new views each time.

    Args:
        surface: where to evaluate; passes are booked there.
        c: (p,) scaling, a vector or made block by block; None for ones.
        w: (p,) memory of the point, holding a first one; new memory by default.
        replayed: whether passes may be recorded and replayed (see ``moving_point``).

    Attributes:
        lends: whether ``passing_slope`` puts a gradient into the memory of the point: where vectors are very long.
    """

    _conditions: Conditions | None = None  # of a pass with its derivative, made once

    def __init__(
        self, surface: LossSurface, c: Tensor | Units | None = None, w: Tensor | None = None, replayed: bool = False
    ) -> None:
        self._surface, self._core, self.c = surface, surface.core, c
        self.lends = w is None and not replayed and huge(surface.w)
        if w is not surface.w:
            refuse_jumps(self._core.functional, surface.parameters.free)
        with conditions(self._core.functional):
            self.w = torch.empty_like(surface.w) if w is None else trackable(tensor(w, "w").detach().to(surface.w))
            self._lay_out(surface)
        self._forward_replay = self._replay_of(self._forward) if replayed else None
        self._slope_replay = self._replay_of(self._slope) if replayed else None

    def _lay_out(self, surface: LossSurface) -> None:
        slots = surface.parameters.slots
        self._pieces = [piece.view(slot.shape) for piece, slot in zip(surface.pieces(self.w), slots, strict=True)]
        if self.lends:
            # With versions of their own, by which autograd sees what a pass still reads.
            for i in surface.parameters.free:
                self._pieces[i] = self._pieces[i].data
        # Each parameter is a leaf of its own: the gradient is put together once, outside the graph.
        self._leaves = [self._pieces[i].requires_grad_() for i in surface.parameters.free]
        self._groups = _groups([leaf.numel() for leaf in self._leaves], self.w.device.type == "cpu")
        self._start = self.w.data_ptr()
        self._end = self._start + self.w.numel() * self.w.element_size()

    def _replay_of(self, work: Work) -> Replay:
        return Replay(work, self.w.device, self._core.functional.note)

    def forget(self) -> None:
        """Free the memory of recorded passes now: it is as large as their activations."""
        for replay in (self._forward_replay, self._slope_replay):
            if replay is not None:
                replay.forget()

    def in_units(self, c: Tensor | Units | None) -> MovingPoint:
        """Return the same point, in the same memory, moved in units of c, (p,)."""
        other = copy(self)
        other.c = c
        return other

    def held(self) -> Exchange:
        """Return a context in which the model holds the point, so that a pass need not exchange its parameters."""
        return self._core.functional.holding(self._pieces)

    def move(self, x: Tensor, scale: float = 1.0) -> MovingPoint:
        """Go to w* + scale c x, x (p,)."""
        moved(self._surface.w, self.c, x, scale, self.w)
        return self

    @property
    def takes_blocks(self) -> bool:
        """Whether noise that serves a single point is best made where the point moves, and held nowhere."""
        return large(self.w) and self.w.is_cpu

    def move_along(self, x: Blocks, scale: float = 1.0) -> MovingPoint:
        """Go to w* + scale c x, where x comes in blocks and is not held: it may be noise of a seed."""
        moved_along(self._surface.w, self.c, x.blocks(), scale, self.w)
        return self

    def raw_logits(self) -> Tensor:
        """Return the model's own logits, (n, K)."""
        self._surface.check()
        raw = self._forward()[0] if self._forward_replay is None else self._forward_replay()[0].clone()
        self._core.book(forwards=self._core.n)
        return raw

    def _forward(self) -> tuple[Tensor]:
        logits = [raw for raw, _ in self._each()]
        return (self._unshared(logits[0]) if len(logits) == 1 else torch.cat(logits),)

    def _each(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits and targets of every microbatch."""
        core = self._core
        for inputs, targets in core.chunks():
            with conditions(core.functional, arithmetic=core.arithmetic):
                raw = self._logits(inputs)
            yield raw, targets
            del raw

    def _logits(self, inputs: Any) -> Tensor:
        """Return logits in the surface's dtype: autocast leaves them in its own."""
        raw = self._core.functional(self._pieces, inputs)
        return raw if self._core.arithmetic == "exact" else raw.to(self._core.functional.dtype)

    def value(self) -> Evaluation:
        """Return loss and logits; one forward over the batch."""
        seen = self.seen_by([self._surface])
        return Evaluation(seen.losses[0], seen.note, again=None if self._core.keeps_logits else _gone)

    def seen_by(self, views: Sequence[LossSurface]) -> Seen:
        """Return the losses under several views of the surface, or none, and what is kept of outputs; one forward."""
        self._surface.check()
        core = self._core
        if core.keeps_logits:
            raw = self.raw_logits()
            with conditions(core.functional):
                return Seen([view.loss_of(raw) for view in views], raw)
        with conditions(core.functional):
            tally = Tally(self._surface, views).all(self._each())
        core.book(forwards=core.n)
        return Seen(tally.losses, tally.note)

    def gradient(self) -> Evaluation:
        """Return loss, logits and the gradient with respect to the weights, (p,), in new memory."""
        loss, note, parts = self.slope()
        # A single part was joined, so it is memory of its own already, or that of the next replay.
        is_own = len(parts) == 1 and self._slope_replay is None
        gradient = parts[0] if is_own else torch.cat(parts)
        return Evaluation(loss, note, gradient, None if self._core.keeps_logits else _gone)

    def slope(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return loss, logits (or what is kept of them) and the gradient in the weights, in parts that make (p,).

        One forward and one backward over the batch. Large parts are the memory that automatic differentiation
        gave, uncopied; the point may move meanwhile. The parts of a replayed pass last until the next one.
        """
        self._surface.check()
        self._core.refuse_derivatives(self._surface.parameters.free)
        if self._slope_replay is None:
            loss, raw, *parts = self._slope()
        else:
            loss, raw, *parts = self._slope_replay()
            loss, raw = loss.clone(), raw.clone()
        self._core.book(forwards=self._core.n, backwards=self._core.n)
        return loss, raw, parts

    def passing_slope(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return what ``slope`` does, of very many weights in no memory but the point's: it lasts until that moves.

        In several passes it is one vector beside it, and not two.

        Raises:
            OverwrittenError: where the model does not allow that; move the point again, and it is not tried again.
        """
        core = self._core
        if not self.lends:
            return self.slope()
        self._surface.check()
        core.refuse_derivatives(self._surface.parameters.free)
        flat = self.w if core.in_one_pass else torch.zeros_like(self.w)
        into = self._leaves if core.in_one_pass else self._surface.parameters.split(flat)
        put = Tensor.copy_ if core.in_one_pass else Tensor.add_

        def take(output: Tensor, seed: Tensor | None) -> None:
            gradients_into(output, self._leaves, lambda i, g: put(into[i], g.view(into[i].shape)), seed)

        try:
            loss, raw = self._pass(take)
        except OverwrittenError:
            self.lends = False
            core.book(checks=3 * core.n)
            raise
        core.book(forwards=core.n, backwards=core.n)
        return loss, raw, [flat]

    def _slope(self) -> tuple[Tensor, ...]:
        """Return (loss, logits, parts of the gradient ...): one forward and one backward for each microbatch."""
        parts: list[Tensor] = []

        def take(output: Tensor, seed: Tensor | None) -> None:
            joined = self._grouped(gradients(output, self._leaves, seed))
            if parts:
                torch._foreach_add_(parts, joined)
            else:
                # Automatic differentiation may hand out one tensor twice: to add to it, it must be our own.
                parts.extend(joined if self._core.in_one_pass else [part.clone() for part in joined])

        loss, raw = self._pass(take)
        return loss, raw, *parts

    def _pass(self, take: Callable[[Tensor, Tensor | None], None]) -> tuple[Tensor, Tensor]:
        """Return (loss, logits or errors).

        Args:
            take: given what each microbatch adds to the loss with its graph and None; or the logits, with theirs, and
                the gradient of that in them.
        """
        core = self._core
        losses, notes, keeps = [], [], core.keeps_logits
        if self._conditions is None:
            self._conditions = conditions(core.functional, order=1, arithmetic=core.arithmetic, recomputed=True)
        with self._conditions, self.held():
            for inputs, targets in core.chunks():
                raw = self._logits(inputs)
                out = raw.detach()
                notes.append(self._unshared(out) if keeps else noted(self._surface, out, targets))
                known = None if self._surface.logit_norm else core.head.slope(out, targets, core.n)
                if known is None:
                    loss = core.head.part(self._surface.transform(raw), targets, core.n)
                    take(loss, None)
                else:
                    loss, seed = known
                    take(raw, seed)
                losses.append(loss.detach())
                del raw, out, loss, known
        if len(losses) == 1:
            return losses[0], notes[0]
        note = torch.cat(notes)
        if keeps:
            refuse_parts(self._surface, note)
        return torch.stack(losses).sum(), note

    def _grouped(self, grads: list[Tensor]) -> list[Tensor]:
        """Return gradients of the parameters as one-dimensional parts: large ones as they are, others joined."""
        if len(self._groups) == 1:
            return [_flatten_dense_tensors(grads) if len(grads) > 1 else grads[0].reshape(-1).clone()]
        flat = [g.reshape(-1) for g in grads]
        return [
            self._unshared(flat[group.start]) if len(group) == 1 else torch.cat(flat[group.start : group.stop])
            for group in self._groups
        ]

    def _unshared(self, tensor: Tensor) -> Tensor:
        """Return the tensor, copied if it lies in the memory of the point, which will move."""
        return tensor.clone() if self._start <= tensor.data_ptr() < self._end else tensor


def moving_point(surface: LossSurface, c: Tensor | Units | None = None) -> MovingPoint:
    r"""Return a point for a walk of many passes, in units of c, (p,), or ones.

    Where passes are replayed all walks over a surface move one point: its passes are recorded once. Walks may take
    turns, since each move says where to.
    """
    if not surface.core.replays:
        return MovingPoint(surface, c)
    return surface.memo(("moving_point",), lambda: MovingPoint(surface, replayed=True)).in_units(c)


def _gone() -> Tensor:
    raise UserError(
        "the logits of this pass were not kept: those of all examples would take more memory than the loss needs",
        "ask raw_logits(w) for them, or make passes without a microbatch",
    )


def _groups(sizes: list[int], on_cpu: bool) -> list[range]:
    """Return runs of parameters whose gradients are worth joining: on the CPU the small ones, else all of them."""
    groups: list[range] = []
    alone = True
    for i, size in enumerate(sizes):
        large = on_cpu and size >= LARGE
        if large or alone or not groups:
            groups.append(range(i, i + 1))
        else:
            groups[-1] = range(groups[-1].start, i + 1)
        alone = large
    return groups
