"""What measures have in common that compare unlabelled points with labelled ones: they read both, once each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from acutance.measure import Cost, Estimate, Status
from acutance.spec import Spec
from acutance_predictions.measure import OutputMeasure

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface
    from acutance_predictions.outputs import Outputs

SpecT = TypeVar("SpecT", bound=Spec)


class ValidatedMeasure(OutputMeasure[SpecT]):
    """A function of the probabilities on the points, and of those on the validation points and their labels."""

    def beside(self, outputs: Outputs, validation: Outputs, y: Tensor, spec: SpecT) -> Estimate | float:
        """Return the value.

        Args:
            outputs: on the n points, whose labels nobody sees.
            validation: on the m validation points.
            y: (m,) their labels.
            spec: the settings.
        """
        raise NotImplementedError

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: SpecT) -> Estimate | float:
        """Return the value; none where an output on the validation points is not finite, or they are the points."""
        from acutance_predictions.common_points import shared_with_validation, told
        from acutance_predictions.outputs import validation

        found, y = validation(surface)
        common = shared_with_validation(surface, surface.companion("validation"))
        if found.lost:
            message = f"the outputs of {found.lost} of {len(y)} validation points are not finite"
            return Estimate.without_value(Status.NONFINITE, message)
        return told(Estimate.of(self.beside(outputs, found, y, spec)), common)

    def passes(self, spec: SpecT) -> Cost:
        """The forwards that give the logits on the points, and on as many validation points."""
        return Cost(forwards=2)
