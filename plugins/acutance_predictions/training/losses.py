"""How fast a model was trained: sums and values of what its training wrote down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field

from acutance.measure import Estimate, Measure, Traits
from acutance.spec import Spec, labelled
from acutance_predictions.training.rows import by_epoch, interpolated, mean

if TYPE_CHECKING:
    from acutance.io.training_log import TrainingLog
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SpecT = TypeVar("SpecT", bound=Spec)

# A log stays as it is, whatever is made of the weights that it led to.
SAME_LOG: frozenset[Literal["rescaling", "output_scale", "head_mixing", "permutation", "translation"]] = frozenset(
    {"rescaling", "output_scale", "head_mixing", "permutation", "translation"}
)


class LogMeasure(Measure[SpecT]):
    """A number out of the log of a model's training."""

    def of_log(self, log: TrainingLog, spec: SpecT) -> Estimate | float:
        """Return the value."""
        raise NotImplementedError

    def evaluate(self, surface: LossSurface, spec: SpecT, rng: Streams) -> Estimate | float:
        """Return the value; no points are opened and no pass is made."""
        return self.of_log(surface.training_log(), spec)

    def vectors(self, spec: SpecT) -> int:
        """No vector of the size of the weights."""
        return 0


class EpochsSpec(Spec):
    """Which epochs count."""

    last: Annotated[Annotated[int, Field(ge=1)] | None, labelled(adds=", last {last} epochs")] = None
    """How many of the last epochs; null for all."""


class SumOfTrainingLosses(LogMeasure[EpochsSpec]):
    r"""Sum of the training losses over the epochs.

    .. math:: \mathrm{SOTL} = \sum_{e = E - l + 1}^{E} L_e

    with :math:`L_e` the mean of ``train_loss`` in epoch e, over all E epochs or the last l of them (Lyle et al. 2020;
    Ru et al. 2021). A model that learns fast has a small one. A log without a column ``epoch`` is summed row by row.
    """

    name = "sum_of_training_losses"
    traits = Traits(
        level="weights", larger_means="slower training", better="smaller", needs={"trajectory"}, invariant_to=SAME_LOG,
        symbol="SOTL", label="sum of training losses", reference="Lyle et al. 2020; Ru et al. 2021",
        bibtex=("lyle2020bayesian", "ru2021speedy"),
    )  # fmt: skip

    def of_log(self, log: TrainingLog, spec: EpochsSpec) -> Estimate:
        """Return the sum, and how many epochs are in it."""
        losses = by_epoch(log, "train_loss", spec.last)
        return Estimate(math.fsum(losses), extras={"epochs": len(losses)})


class GradientNormAlongTraining(LogMeasure[EpochsSpec]):
    r"""Mean norm of the gradient along training.

    .. math:: \frac1l \sum_{e = E - l + 1}^{E} g_e

    with :math:`g_e` the mean of the log's ``gradient_norm`` in epoch e: what gradient descent with finite steps keeps
    small (Barrett and Dherin 2021).
    """

    name = "gradient_norm_along_training"
    traits = Traits(
        level="weights", larger_means="steeper training", needs={"trajectory"}, invariant_to=SAME_LOG,
        symbol="‖g‖ₜ", label="gradient norm along training", reference="Barrett & Dherin 2021",
        bibtex=("barrett2021implicit",),
    )  # fmt: skip

    def of_log(self, log: TrainingLog, spec: EpochsSpec) -> Estimate:
        """Return the mean over the epochs, and how many they are."""
        norms = by_epoch(log, "gradient_norm", spec.last)
        return Estimate(mean(norms), extras={"epochs": len(norms)})


class PlaceSpec(Spec):
    """A place in training."""

    at: Annotated[float, Field(ge=0, allow_inf_nan=False), labelled()]
    """Which step, or epoch; between two rows of the log the loss is interpolated linearly."""
    of: Annotated[Literal["step", "epoch"], labelled()] = "step"
    """What ``at`` counts: the column of the log that says where in training a row is."""


class LossAtStep(LogMeasure[PlaceSpec]):
    r"""The training loss at the same place in the training of every model.

    .. math:: L_a + \frac{t - a}{b - a} (L_b - L_a)

    for a step or epoch t between the rows a and b of the log. Compares how far training has come (Ru et al. 2021 do so
    with validation losses, and find sums of training losses better). No value outside of the log.
    """

    name = "loss_at_step"
    traits = Traits(
        level="weights", larger_means="slower training", better="smaller", needs={"trajectory"}, invariant_to=SAME_LOG,
        symbol="Lₜ", label="training loss at {of} {at}", reference="Ru et al. 2021", bibtex=("ru2021speedy",),
    )  # fmt: skip

    def of_log(self, log: TrainingLog, spec: PlaceSpec) -> float:
        """Return the loss."""
        return interpolated(log, "train_loss", spec.of, spec.at)
