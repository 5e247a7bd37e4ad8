"""What measures of predictions have in common: they read the outputs at w*, which are computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from acutance.measure import Cost, Estimate, Measure, Status
from acutance.spec import Spec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_predictions.outputs import Outputs

TAKEN_AWAY = "have a logit of minus infinity, and so the probability 0, of which there is no logarithm"

SpecT = TypeVar("SpecT", bound=Spec)

# A function of the outputs is the same for all weights that make the same function.
SAME_FUNCTION: frozenset[Literal["rescaling", "head_mixing", "permutation", "translation"]] = frozenset(
    {"rescaling", "head_mixing", "permutation", "translation"}
)


class NoSettings(Spec):
    """Nothing to choose."""


class OutputMeasure(Measure[SpecT]):
    """A function of the probabilities of the classes over all points."""

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: SpecT) -> Estimate | float:
        """Return the value, from outputs that are finite."""
        raise NotImplementedError

    def evaluate(self, surface: LossSurface, spec: SpecT, rng: Streams) -> Estimate | float:
        """Return the value; none where an output is not finite."""
        from acutance_predictions.outputs import outputs

        found = outputs(surface)
        if found.lost:
            message = f"the outputs of {found.lost} of {len(found.logits)} points are not finite"
            return Estimate.without_value(Status.NONFINITE, message)
        return self.of_outputs(found, surface, spec)

    def passes(self, spec: SpecT) -> Cost:
        """The forward that gives the logits."""
        return Cost(forwards=1)

    def shares(self, spec: SpecT) -> Literal["", "logits", "gradient"]:
        """The logits."""
        return "logits"

    def vectors(self, spec: SpecT) -> int:
        """No vector of the size of the weights."""
        return 0
