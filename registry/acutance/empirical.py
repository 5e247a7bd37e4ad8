"""What targets are measured in: the error and the loss of a model on a split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface.loss_surface import LossSurface


class TargetSpec(Spec):
    """Settings of a target: none; the split is part of the surface it is measured on."""


class Error(Measure[TargetSpec]):
    r"""Classification error, :math:`\frac1n \sum_i 1[\arg\max_k f_k(x_i) \ne y_i]`, or the split's own score."""

    name = "error"
    traits = Traits(
        level="dataset",
        larger_means="worse",
        invariant_to={"rescaling", "output_scale", "head_mixing", "permutation", "translation"},
        symbol="error",
        reference="empirical risk under the 0-1 loss",
    )

    def evaluate(self, surface: LossSurface, spec: TargetSpec, rng: Streams) -> Estimate | float:
        """Return the mean of the split's score.

        Raises:
            Unsupported: when the targets are numbers, and the split does not say what an error is.
        """
        if not surface.has_errors:
            raise Unsupported("classification error needs class labels, the targets are numbers")
        errors = surface.errors()
        # Shares of wrong tokens are no counts: how noisy they are does not follow from how many points there are.
        counted = bool(((errors == 0) | (errors == 1) | errors.isnan()).all())
        return Estimate(float(errors.double().mean()), extras={"points": surface.n} if counted else {})


class Loss(Measure[TargetSpec]):
    r"""Loss :math:`L_S(w^*)` over all points: their mean, or their sum where the loss is one."""

    name = "loss"
    traits = Traits(
        level="dataset",
        larger_means="worse",
        invariant_to={"rescaling", "head_mixing", "permutation", "translation"},
        symbol="L",
        reference="empirical risk under the loss of the surface",
    )

    def evaluate(self, surface: LossSurface, spec: TargetSpec, rng: Streams) -> Estimate | float:
        """Return the loss."""
        return float(surface.loss())

    def passes(self, spec: TargetSpec) -> Cost:
        """One pass, shared with the error on the same split."""
        return Cost(forwards=1)
