r"""Margins: by how much the right class wins.

What is measured is the distribution over all points of :math:`f_y - \max_{k \ne y} f_k`, from the one forward that all
measures of the logits share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class MarginSpec(Spec):
    """Settings of a percentile of margins."""

    percentile: Annotated[float, Field(ge=0, le=100), labelled(adds=", {percentile}th percentile")] = 10.0
    """Which percentile over the points, by linear interpolation; 0 for the smallest margin, 50 for the median."""


MarginSpecT = TypeVar("MarginSpecT", bound=MarginSpec)


class MarginMeasure(Measure[MarginSpecT]):
    """A function of a percentile of the output margins."""

    def gamma(self, surface: LossSurface, spec: MarginSpecT) -> float:
        """Return the percentile."""
        from acutance_classic.margin_numerics import output_margins, percentile

        return percentile(output_margins(surface), spec.percentile)

    def passes(self, spec: MarginSpecT) -> Cost:
        """The forward that gives the logits."""
        return Cost(forwards=1)

    def shares(self, spec: MarginSpecT) -> Literal["", "logits", "gradient"]:
        """The logits."""
        return "logits"

    def vectors(self, spec: MarginSpecT) -> int:
        """No vector."""
        return 0


class OutputMargin(MarginMeasure[MarginSpec]):
    r"""Percentile of the margins of the logits.

    .. math:: \gamma = \mathrm{percentile}_i \big( f_{y_i}(x_i) - \max_{k \ne y_i} f_k(x_i) \big)

    The tenth percentile stands for the smallest margin, which a few mislabelled points would decide (Jiang et al.
    2020). It is negative where more than that share of the points is wrong, and grows with the scale of the logits.
    """

    name = "output_margin"
    traits = Traits(
        level="dataset", larger_means="larger margin", needs={"data"},
        invariant_to={"rescaling", "head_mixing", "permutation", "translation"}, symbol="γ", label="output margin",
        reference="Jiang et al. 2020", bibtex=("jiang2020fantastic",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MarginSpec, rng: Streams) -> float:
        """Return the percentile."""
        return self.gamma(surface, spec)


class InverseSquaredMargin(MarginMeasure[MarginSpec]):
    r"""Inverse of the squared margin.

    .. math:: 1 / \gamma^2

    with :math:`\gamma` of ``output_margin`` (Jiang et al. 2020). Where it is not positive there is no value: the code
    of Dziugaite et al. (2020) takes its magnitude, and a model that is far off on a tenth of the points looks good.
    """

    name = "inverse_squared_margin"
    tried_on = "acutance_classic.tried_on:FITTED"
    traits = Traits(
        level="dataset", larger_means="smaller margin", needs={"data"},
        invariant_to={"rescaling", "head_mixing", "permutation", "translation"}, symbol="1/γ²",
        label="inverse squared margin", reference="Jiang et al. 2020",
        bibtex=("jiang2020fantastic", "dziugaite2020search"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MarginSpec, rng: Streams) -> Estimate:
        """Return the inverse, with the margin in the extras."""
        gamma = self.gamma(surface, spec)
        if gamma <= 0:
            raise Unsupported(
                f"percentile {spec.percentile:g} of the margins is {gamma:.3g}, not positive: so many points are "
                "wrong; take a higher percentile, or admit models by their training error"
            )
        if math.isnan(gamma):
            return Estimate(gamma)
        return Estimate(gamma**-2 if gamma**2 > 0 else math.inf, extras={"margin": gamma})
