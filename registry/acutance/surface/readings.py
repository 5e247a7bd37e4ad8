"""What the raw logits of a surface say: losses and errors, under its transform."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.model.losses import NO_TARGETS
from acutance.surface.core import Core


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
        return self.core.head.value(self.transform(raw), self.targets)

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
        return self.mean_errors_at(raw[None])[0]
