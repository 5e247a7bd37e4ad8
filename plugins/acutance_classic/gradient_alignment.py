"""Gradient-weight alignment: whether steps against single examples' gradients lengthen the last layer's weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

MEAN = "choose statistic: mean"


class AlignmentSpec(Spec):
    """Settings of gradient-weight alignment."""

    statistic: Annotated[Literal["corrected", "mean"], labelled({"corrected": "", "mean": " (mean)"})] = "corrected"
    """corrected: the mean over the excess kurtosis plus 1.2, as published; mean: the mean alone."""


class GradientWeightAlignment(Measure[AlignmentSpec]):
    r"""Alignment of a step against each example's gradient with the last layer's weights (GWA).

    .. math:: \gamma_i = \frac{-\phi_i^\top W^\top (p_i - e_{y_i})}{\|\phi_i\| \|p_i - e_{y_i}\| \|W\|_F}, \qquad
       \frac{\overline{\gamma}}{\kappa(\gamma) + 1.2}

    (Hoelzl, Rueckert & Kaissis 2025): the cosine of W and minus the gradient :math:`(p_i - e_{y_i}) \phi_i^\top` of the
    cross-entropy in W, with the features :math:`\phi_i` and without the bias. :math:`\kappa` is the excess kurtosis,
    -1.2 for a uniform distribution, where the published correction has a pole and beyond which it turns the sign: there
    it is unsupported. ``extras`` has the mean and the kurtosis, and how many examples were left out because p is the
    label exactly, where the published code takes 0 for the cosine.
    """

    name = "gradient_weight_alignment"
    traits = Traits(
        level="dataset", larger_means="aligned gradients", needs={"activations"}, invariant_to={"permutation"},
        symbol="GWA", label="gradient-weight alignment{statistic}", reference="Hoelzl, Rueckert & Kaissis 2025",
        bibtex=("hoelzl2025gradient",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: AlignmentSpec, rng: Streams) -> Estimate:
        """Return the corrected mean, or the mean."""
        from acutance_classic.alignment_numerics import mean_and_kurtosis, weight_alignments

        cosines = weight_alignments(surface)
        mean, kurtosis = mean_and_kurtosis(cosines)
        extras = {"mean": mean, "kurtosis": kurtosis, "left_out": surface.n - len(cosines)}
        extras = {name: value for name, value in extras.items() if math.isfinite(value)}
        if spec.statistic == "mean" or not math.isfinite(mean):
            return Estimate(mean, extras=extras)
        if len(cosines) < 2 or math.isnan(kurtosis):
            raise Unsupported("the alignments of all examples are equal, so that they have no kurtosis: " + MEAN)
        if not kurtosis > -1.2:
            raise Unsupported(
                f"the excess kurtosis of the alignments is {kurtosis:.3g}, not above that of a uniform distribution, "
                f"-1.2, where the published correction has a pole: {MEAN}"
            )
        return Estimate(mean / (kurtosis + 1.2), extras=extras)

    def passes(self, spec: AlignmentSpec) -> Cost:
        """The pass of the logits."""
        return Cost(forwards=1)

    def shares(self, spec: AlignmentSpec) -> Literal["", "logits", "gradient"]:
        """The logits."""
        return "logits"

    def vectors(self, spec: AlignmentSpec) -> int:
        """None of the size of the weights."""
        return 0
