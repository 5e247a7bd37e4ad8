"""What a surface has beside its own points and weights: other points of the same model, and what its training left."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.io.training_log import TrainingLog
from acutance.model.losses import NormScale
from acutance.model.parameters import Parameters
from acutance.surface.core import Core, Evaluation

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

VALIDATION = "validation"
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

    def at_inputs(self, inputs: Any) -> LossSurface:
        """Return the surface of the same model on other inputs, with the same targets; its passes are booked here.

        For points that are changed on purpose: mixed, shifted, noisy.

        Args:
            inputs: in the form of the surface's own, as many of them.

        Raises:
            UserError: for another number of them.
        """
        self.check()
        # A key of its own, given back: the surface goes with its inputs.
        key = ("inputs", object())
        other = self._view(key, self.parameters, self.logit_norm, self.norm_scale, self.core.at_inputs(inputs))
        del self._views[key]
        return other

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
