"""What the raw logits of a surface say: losses and errors, under its transform, at once or microbatch by microbatch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from acutance.dataset import argmax_error
from acutance.errors import Unsupported
from acutance.model.conditions import in_own_conditions
from acutance.model.losses import NO_TARGETS
from acutance.model.normalized_rows import NormScale
from acutance.numerics.few_logits import few, mean_error
from acutance.surface.core import Core, Evaluation

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface
    from acutance.surface.moving_point import MovingPoint


class Readings:
    """Turns raw logits, from passes at any points, into losses and errors: one pass serves several transforms.

    Attributes:
        core: what the views of a surface share.
        transform: from raw logits to what the loss sees.
    """

    core: Core
    transform: Callable[[Tensor], Tensor]

    @property
    def targets(self) -> Tensor:
        """Targets on the device.

        Raises:
            Unsupported: where there are none.
        """
        if not self.core.labelled:
            raise Unsupported(NO_TARGETS)
        return self.core.targets

    def loss_of(self, raw: Tensor) -> Tensor:
        """Return the 0-d loss of raw logits, (n, K), under this surface's transform."""
        return self.core.head.reading(self.transform(raw), self.targets)

    def errors_of(self, raw: Tensor) -> Tensor:
        """Return (n,) 0/1 errors of raw logits, NaN where one is NaN or inf; normalization does not change them."""
        return self.core.errors(raw, self.targets)

    def errors_noted(self, note: Tensor) -> Tensor:
        """Return (n,) errors from what is kept of a pass: its raw logits, or the errors themselves."""
        return self.errors_of(note) if self.core.keeps_logits else note

    def mean_error_noted(self, note: Tensor) -> Tensor:
        """Return the 0-d mean error from what is kept of a pass; NaN when the targets are not classes."""
        if self.core.keeps_logits:
            return self.mean_error_of(note)
        if not self.core.head.classifies:
            return note.new_full((), float("nan"), dtype=torch.float64)
        return note.double().mean()

    def losses_at(self, raw: Tensor) -> Tensor:
        """Return the (k,) losses at k points from their raw logits, (k, n, K), under this surface's transform."""
        core = self.core
        if callable(core.head.loss):
            return torch.stack([self.loss_of(one) for one in raw])
        k, transformed = len(raw), self.transform(raw)
        each = core.head.losses(transformed.flatten(0, 1), core.targets_of(k)).view(k, -1)
        return each.sum(1) if core.head.sums else each.mean(1)

    def mean_errors_at(self, raw: Tensor) -> Tensor:
        """Return the (k,) mean errors at k points from their raw logits, (k, n, K); NaN where there are no classes."""
        core, k = self.core, len(raw)
        if not core.head.classifies:
            return raw.new_full((k,), float("nan"), dtype=torch.float64)
        return core.errors(raw.flatten(0, 1), core.targets_of(k)).double().view(k, -1).mean(1)

    def mean_error_of(self, raw: Tensor) -> Tensor:
        """Return the 0-d mean error of raw logits, (n, K); NaN when the targets are not classes."""
        core = self.core
        if not core.head.classifies:
            return raw.new_full((), float("nan"), dtype=torch.float64)
        if core.score is argmax_error and few(raw, core.targets):
            return mean_error(raw, core.targets)
        return core.errors(raw, core.targets).double().mean()


class Clean:
    """The part of a surface that knows loss and outputs at w*, whatever is kept of them.

    Attributes:
        core: what the views of a surface share.
    """

    core: Core
    logit_norm: bool
    norm_scale: NormScale
    check: Callable[[], None]
    memo: Callable[[Hashable, Callable[[], Evaluation]], Evaluation]
    raw_logits: Callable[[], Tensor]
    loss_of: Callable[[Tensor], Tensor]
    still_point: Callable[[], MovingPoint]

    @in_own_conditions
    def clean_logits(self) -> Tensor:
        """Return the model's own logits at w*, (n, K); one pass for the surface and all its views, needs no targets."""
        known = self.core.known
        raw = known.clean_logits = self.raw_logits() if known.clean_logits is None else known.clean_logits
        return raw

    @in_own_conditions
    def clean(self) -> Evaluation:
        """Return loss and logits at w*; the pass is made once for the surface and all its views.

        Where logits are not kept, it is made once for a transform, or for those of the views of ``clean_together``.
        """
        if self.core.known.clean_logits is None:
            self.check()
            if not self.core.keeps_logits:
                return self.clean_together([cast("LossSurface", self)])[0]
        raw = self.clean_logits()
        return self.memo("clean", lambda: Evaluation(self.loss_of(raw), raw))

    def clean_together(self, views: Sequence[LossSurface]) -> list[Evaluation]:
        """Return ``clean`` of several views of this surface, from one pass, whatever is kept of it."""
        known = self.core.known
        if known.clean_logits is None:
            self.check()
            if not self.core.keeps_logits:
                passed = self.core.passed
                if wanted := list({view.seen: view for view in views if view.seen not in passed}.values()):
                    found = self.still_point().seen_by(wanted)
                    for view, loss in zip(wanted, found.losses, strict=True):
                        view.learn(loss, found.note)
                return [passed[view.seen] for view in views]
        return [view.clean() for view in views]

    def learn(self, loss: Tensor, note: Tensor) -> None:
        """Keep what a pass at w* gave: the logits for all views, or, where they are not kept, loss and errors."""
        if self.core.keeps_logits:
            self.core.known.clean_logits = note
        else:
            self.core.passed.setdefault(self.seen, Evaluation(loss, note, again=self.clean_logits))

    @property
    def seen(self) -> Hashable:
        """What the loss sees of the logits: views that agree on it have the same losses."""
        return self.logit_norm, self.norm_scale


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
