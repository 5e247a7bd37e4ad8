r"""Whether a model says the same of images that are moved a little, without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec, labelled
from acutance_predictions.measure import SAME_FUNCTION

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class AugmentationConsistencySpec(Spec):
    """How images are changed."""

    change: Annotated[Literal["shift", "flip"], labelled({"shift": "shifts", "flip": "mirroring"})] = "shift"
    """shift: to each of the four sides, with zeros behind; flip: mirrored from left to right."""
    pixels: Annotated[int, Field(ge=1), labelled(adds=", {pixels} pixels")] = 2
    """By how much images are shifted."""


class AugmentationConsistency(Measure[AugmentationConsistencySpec]):
    r"""Share of changed images that are given the class of the original.

    .. math:: \frac{1}{|T| n} \sum_{T, i} 1\big[\arg\max_k f_k(T x_i) = \arg\max_k f_k(x_i)\big]

    over shifts T by some pixels to the four sides, or over mirrored images (after Natekar and Sharma 2020 and Aithal et
    al. 2021, who changed images at random). Nothing is random here. For models of images alone.
    """

    name = "augmentation_consistency"
    traits = Traits(
        level="dataset", larger_means="more consistent", needs={"unlabeled"}, invariant_to=SAME_FUNCTION, symbol="cons",
        label="consistency under {change}", reference="Natekar & Sharma 2020; Aithal et al. 2021",
        bibtex=("natekar2020representation", "aithal2021robustness"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: AugmentationConsistencySpec, rng: Streams) -> Estimate | float:
        """Return the share."""
        from acutance_predictions.representations.changed_points import consistency

        return consistency(surface, spec.change, spec.pixels)

    def passes(self, spec: AugmentationConsistencySpec) -> Cost:
        """The outputs, and a forward a change."""
        return Cost(forwards=5 if spec.change == "shift" else 2)

    def shares(self, spec: AugmentationConsistencySpec) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"

    def vectors(self, spec: AugmentationConsistencySpec) -> int:
        """No vector of the size of the weights."""
        return 0
