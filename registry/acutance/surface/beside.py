"""What a surface has beside its own points and weights: other points and buffers, and what its training left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from acutance.data.batch import take_rows
from acutance.data.fingerprint import digest_examples
from acutance.errors import Unsupported
from acutance.io.training_log import TrainingLog
from acutance.model.functional import FunctionalModel
from acutance.model.normalized_rows import NormScale
from acutance.model.parameters import Parameters
from acutance.model.recalibration import layers_with_statistics, recalibrated
from acutance.surface.core import Core, Evaluation

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

VALIDATION = "validation"
RECALIBRATED_ON = 128  # points of a part, as an m-batch has by default
ABSENT = {
    VALIDATION: "no validation points are known here: name a split of the dataset as surface.validation in the study, "
    "give acutance.measure validation=(inputs, targets), or --validation to the command",
}


@dataclass(frozen=True)
class Update:
    """A step of training from w*.

    Attributes:
        vector: (p,), what would be added to the weights.
        source: ``optimizer`` where the pool has the optimizer's own step, ``gradient`` for minus the gradient.
    """

    vector: Tensor
    source: str


class Beside:
    """The part of a surface that knows other points of the same model, and its training."""

    core: Core
    parameters: Parameters
    logit_norm: bool
    norm_scale: NormScale
    check: Callable[..., None]
    clean_gradient: Callable[[], Evaluation]
    pieces: Callable[[Tensor], list[Tensor]]
    _pieces: Sequence[Tensor]
    shared: Callable[[Hashable, Callable[[], Tensor]], Tensor]
    _view: Callable[..., LossSurface]
    _views: dict[Hashable, LossSurface]

    def companion(self, name: str = VALIDATION) -> LossSurface:
        """Return the surface of the same model on other points, with targets; its passes are booked here.

        Args:
            name: ``validation``.

        Raises:
            Unsupported: when there are no such points.
        """
        make = self.core.companions.get(name)
        if make is None:
            raise Unsupported(ABSENT.get(name, f"there are no points called '{name}' beside these"))
        other = make()
        other.core.known.ledger = self.core.known.ledger
        return other

    def example_digests(self) -> Tensor:
        """Return a digest of each example's inputs, (n,) int64 on the CPU; computed once for the surface and its views.

        Equal examples have equal ones, here and in a ``companion``: so that points can be found again among others.
        """
        known = self.core.example_digests
        return self.shared("digests of examples", known or (lambda: digest_examples(self.core.inputs_as_points)))

    def at_inputs(self, inputs: Any) -> LossSurface:
        """Return the surface of the same model on other inputs, with the same targets; its passes are booked here.

        For points that are changed on purpose: mixed, shifted, noisy.

        Args:
            inputs: in the form of the surface's own, as many of them.

        Raises:
            UserError: for another number of them.
        """
        self.check()
        return self._apart(self.core.at_inputs(inputs))

    def _apart(self, core: Core) -> LossSurface:
        """Return the same view of another core, which goes when nobody holds it."""
        key = ("apart", object())
        other = self._view(key, self.parameters, self.logit_norm, self.norm_scale, core)
        del self._views[key]
        return other

    # -- the whole model, with other buffers ------------------------------------------------------------------------

    def unrestricted(self) -> LossSurface:
        """Return the same surface with all parameters free, whatever a study's ``surface.parameters`` leaves."""
        every = self.core.functional.parameters
        if self.parameters.are_all_free:
            return cast("LossSurface", self)
        return self._view(("unrestricted",), every, self.logit_norm, self.norm_scale)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The model's floating-point buffers as passes see them, by name: running statistics, masks, tables."""
        return {name: b for name, b in self.core.functional.named_buffers() if b.is_floating_point()}

    def with_buffers(self, named: Mapping[str, Tensor]) -> LossSurface:
        """Return the surface of the same model with other buffers; its passes are booked here.

        Args:
            named: {name: tensor} of those that differ.

        Raises:
            UserError: for a buffer that the model does not have, or of another shape.
        """
        if not named:
            return cast("LossSurface", self)
        self.check()
        return self._with(self.core.functional.with_buffers(named))

    def recalibrated(self, w: Tensor | None = None) -> LossSurface:
        r"""Return this surface with the running statistics that batch normalization has at w, or at w*.

        They are means over parts of the points, of about 128 one after the other: of each part's mean and unbiased
        variance, as torch's own with ``momentum=None``. Cost: n forwards; none, and the surface itself, where no layer
        keeps such statistics.

        Args:
            w: (p,) point.

        Raises:
            UserError: for a part that gives a layer a single value a channel.
        """
        core = self.core
        if not layers_with_statistics(core.functional):
            return cast("LossSurface", self)
        self.check()
        count = max(round(core.n / RECALIBRATED_ON), 1)
        cuts = [slice(i * core.n // count, (i + 1) * core.n // count) for i in range(count)]
        parts = (take_rows(core.inputs, rows) for rows in cuts)
        other = recalibrated(core.functional, parts, self._pieces if w is None else self.pieces(w))
        core.book(forwards=core.n)
        return self._with(other)

    def _with(self, functional: FunctionalModel) -> LossSurface:
        return self._apart(self.core.at_buffers(functional))

    # -- training ---------------------------------------------------------------------------------------------------

    def training_log(self) -> TrainingLog:
        """Return what training wrote down: columns such as ``step``, ``train_loss``, ``learning_rate``.

        Raises:
            Unsupported: when nothing is known of it.
        """
        log: TrainingLog | None = self.core.functional.training_log
        if log is None:
            raise Unsupported(
                "nothing is known of this model's training: its pool's entry names no log that is there; name it "
                "in a table of checkpoints (column 'log'), give log= in Python, or --log in acutance measure"
            )
        return log

    def update(self) -> Update:
        """Return the step that the optimizer would take next, or minus the gradient where the pool has none.

        Cost: none, or n forwards and n backwards for the gradient, which measures share.
        """
        step = self.core.functional.update_vector
        if step is not None:
            return Update(self.parameters.free_part(step), "optimizer")
        gradient = self.clean_gradient().gradient
        assert gradient is not None
        return Update(torch.neg(gradient), "gradient")
