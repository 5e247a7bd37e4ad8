"""Margins in units of the model: over the size of the weights, and as distances in a layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Need, Traits
from acutance.spec import Spec, labelled
from acutance_classic.margin.output import MarginMeasure, MarginSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class NormalizedMarginSpec(MarginSpec):
    """Settings of the margin over the size of the weights."""

    complexity: Annotated[
        Literal["spectral", "bartlett"], labelled({"spectral": "spectrally", "bartlett": "Bartlett"})
    ] = "spectral"
    """What the margin is divided by: the product of the spectral norms, or R of Bartlett et al. 2017 with M = 0."""


class NormalizedMargin(MarginMeasure[NormalizedMarginSpec]):
    r"""Margin over the product of the spectral norms of the weights.

    .. math:: \gamma / \prod_l \|W_l\|_2 \qquad\text{or}\qquad \gamma \Big/ \prod_l \|W_l\|_2
       \Big(\sum_l (\|W_l^\top\|_{2,1} / \|W_l\|_2)^{2/3}\Big)^{3/2}

    over the weight matrices of ``log_product_of_spectral_norms``, kernels as (out, -1), which is not the norm of the
    operator. ``bartlett`` is the normalized margin of Bartlett et al. (2017, with zero reference matrices) without the
    size of the inputs, the same for all models. Normalization layers and biases do not count.
    """

    name = "normalized_margin"
    traits = Traits(
        level="dataset", larger_means="larger margin", needs={"data", "weights"},
        invariant_to={"output_scale", "permutation", "translation"}, symbol="γ/∏‖W‖",
        label="{complexity} normalized margin",
        reference="Bartlett et al. 2017, Spectrally-normalized margin bounds", bibtex=("bartlett2017spectrally",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: NormalizedMarginSpec, rng: Streams) -> Estimate:
        """Return the quotient, from the logarithm of the product."""
        from acutance_classic.margin.complexity import log_complexity

        gamma = self.gamma(surface, spec)
        if math.isnan(gamma):
            return Estimate(gamma)
        logarithm = log_complexity(surface, spec.complexity)
        extras = {"margin": gamma, "log_complexity": logarithm}
        if abs(logarithm) > 600:
            raise Unsupported(f"the weights have size e^{logarithm:.0f}: the quotient leaves the range of float64")
        return Estimate(gamma * math.exp(-logarithm), extras=extras)


class HiddenMarginSpec(Spec):
    """Settings of the margin in a layer."""

    layer: Annotated[Literal["penultimate", "output"], labelled()] = "penultimate"
    """Whose activations: what goes into the last linear layer, or the logits."""
    statistic: Annotated[
        Literal["lower_quartile", "median", "upper_quartile"],
        labelled({"lower_quartile": "lower quartile", "upper_quartile": "upper quartile"}),
    ] = "median"
    """Which quartile over the points is the value; all three are in the extras."""
    examples: Annotated[Literal["right", "all"], labelled(adds=" of all examples")] = "right"
    """Which points count: those that are classified rightly, as published, or all, the others with a negative sign."""


class HiddenMargin(Measure[HiddenMarginSpec]):
    r"""Quartile of the distances to the decision boundary in a layer.

    .. math:: \hat\gamma_i = \frac{f_y - f_j}{\|\nabla_h (f_y - f_j)\|_2 \sqrt{\nu}}, \qquad
       \nu = \tfrac1n \sum_i \|h_i - \bar h\|_2^2

    with j the runner-up and h the activations of the layer: the distance to first order, in units of the root of their
    total variation (Jiang et al. 2019). The logits are linear in the penultimate features: there it is the exact
    distance, and the gradient is :math:`w_y - w_j`. Earlier layers would need derivatives by activations, which a
    surface does not give.
    """

    name = "hidden_margin"
    traits = Traits(
        level="dataset", larger_means="larger margin", needs={"data"},
        invariant_to={"output_scale", "head_mixing", "permutation", "translation"}, symbol="γ_h",
        label="{layer} margin, {statistic}", reference="Jiang et al. 2019", bibtex=("jiang2019predicting",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: HiddenMarginSpec, rng: Streams) -> Estimate:
        """Return the quartile."""
        from acutance_classic.margin_numerics import feature_margins, percentile

        distances, variation = feature_margins(surface, spec.layer)
        if not math.isfinite(float(distances.sum()) + variation):
            return Estimate(math.nan)
        right = distances > 0
        chosen = distances[right] if spec.examples == "right" else distances
        if len(chosen) == 0:
            raise Unsupported("no point is classified rightly: there is no positive margin")
        if variation == 0:
            raise Unsupported(f"the {spec.layer} activations are the same for all points: their variation is zero")
        quartiles = {
            name: percentile(chosen, percent) / math.sqrt(variation)
            for name, percent in (("lower_quartile", 25), ("median", 50), ("upper_quartile", 75))
        }
        extras = {"total_variation": variation, "share_right": float(right.double().mean()), **quartiles}
        return Estimate(quartiles[spec.statistic], extras=extras)

    def needs(self, spec: HiddenMarginSpec) -> frozenset[Need]:
        """The features of the penultimate layer besides."""
        more: set[Need] = {"activations"} if spec.layer == "penultimate" else set()
        return super().needs(spec) | more

    def passes(self, spec: HiddenMarginSpec) -> Cost:
        """The forward that gives logits and features."""
        return Cost(forwards=1)

    def shares(self, spec: HiddenMarginSpec) -> Literal["", "logits", "gradient"]:
        """The logits, where nothing else is looked at."""
        return "logits" if spec.layer == "output" else ""

    def vectors(self, spec: HiddenMarginSpec) -> int:
        """No vector: the last layer alone."""
        return 0
