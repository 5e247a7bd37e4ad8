"""What measures of representations have in common: they read one layer, whose features are computed once for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from acutance.measure import Cost, Estimate, Measure, Status
from acutance.spec import Spec, labelled

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

PENULTIMATE = "penultimate"

# What leaves the penultimate features alone, up to their order: the last layer's own weights do not enter.
SAME_FEATURES: frozenset[Literal["output_scale", "head_mixing", "permutation", "translation"]] = frozenset(
    {"output_scale", "head_mixing", "permutation", "translation"}
)


class LayerSpec(Spec):
    """Which features."""

    layer: Annotated[str, labelled(adds=" of {layer}")] = PENULTIMATE
    """penultimate: what goes into the last linear layer; or a module's name, whose output is taken, flattened."""


LayerSpecT = TypeVar("LayerSpecT", bound=LayerSpec)


class FeatureMeasure(Measure[LayerSpecT]):
    """A function of the features of one layer over all points."""

    def of_features(self, features: Tensor, surface: LossSurface, spec: LayerSpecT) -> Estimate | float:
        """Return the value, from features (n, d) in float64 that are finite."""
        raise NotImplementedError

    def evaluate(self, surface: LossSurface, spec: LayerSpecT, rng: Streams) -> Estimate | float:
        """Return the value; none where a feature is not finite."""
        from acutance_predictions.outputs import lost_rows
        from acutance_predictions.representations.features import features

        found = features(surface, spec.layer)
        if lost := lost_rows(found):
            return Estimate.without_value(
                Status.NONFINITE, f"the features of {lost} of {len(found)} points are not finite"
            )
        return self.of_features(found, surface, spec)

    def passes(self, spec: LayerSpecT) -> Cost:
        """The forward that gives the features."""
        return Cost(forwards=1)

    def shares(self, spec: LayerSpecT) -> Literal["", "logits", "gradient"]:
        """The pass that gives the logits gives the penultimate features."""
        return "logits" if spec.layer == PENULTIMATE else ""

    def vectors(self, spec: LayerSpecT) -> int:
        """No vector of the size of the weights."""
        return 0
