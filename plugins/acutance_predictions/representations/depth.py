r"""At which layer the neighbours of a point agree with what the model says of it in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class PredictionDepthSpec(Spec):
    """Which layers, and how many neighbours vote."""

    layers: Annotated[str, labelled(adds=" [{layers}]")] = "all"
    """all: every module without modules inside; or patterns of names, separated by commas. In the order of the pass."""
    k: Annotated[int, Field(ge=1), labelled(adds=", k = {k}")] = 10
    """How many neighbours vote; a tie goes to the smaller class. The source takes 30, of a whole training set."""


class PredictionDepth(Measure[PredictionDepthSpec]):
    r"""Mean over the points of the first layer from which on the neighbours agree with the model.

    .. math:: \frac1n \sum_i \min\{\ell : \forall m \ge \ell,\ \mathrm{knn}_m(x_i) = \arg\max_k f_k(x_i)\}

    with :math:`\mathrm{knn}_m` the label that most of the k nearest other points have in the m-th of L layers,
    counted from 0, and L where the last one disagrees (Baldock, Maennel and Neyshabur 2021). Outputs are flattened; a
    layer that puts out what the one before did counts once.
    """

    name = "prediction_depth"
    traits = Traits(
        level="dataset", larger_means="decided later", needs={"data", "activations"}, symbol="depth",
        label="prediction depth", reference="Baldock et al. 2021", bibtex=("baldock2021deep",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PredictionDepthSpec, rng: Streams) -> Estimate:
        """Return the mean depth; the extras say how many layers there are."""
        from acutance_predictions.representations.probes import prediction_depth

        return prediction_depth(surface, spec.layers, spec.k)

    def passes(self, spec: PredictionDepthSpec) -> Cost:
        """A forward for the outputs, one for the layers."""
        return Cost(forwards=2)

    def shares(self, spec: PredictionDepthSpec) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"

    def vectors(self, spec: PredictionDepthSpec) -> int:
        """No vector of the size of the weights."""
        return 0
