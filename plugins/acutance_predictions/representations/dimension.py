r"""The dimension of the set on which the features lie, from the distances to the nearest points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Estimate, Traits
from acutance.spec import labelled
from acutance_predictions.representations.measure import SAME_FEATURES, FeatureMeasure, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface

LOST = 0.1  # share of points without a distance above rounding


class IntrinsicDimensionSpec(LayerSpec):
    """Which features, and which estimator."""

    method: Annotated[Literal["two_nn", "mle"], labelled({"two_nn": "TwoNN", "mle": "MLE"})] = "two_nn"
    """two_nn: from the quotient of the distances to the second and the first neighbour; mle: from k neighbours."""
    fit: Annotated[Literal["linear", "likelihood"], labelled({"likelihood": ", by likelihood"}, adds="{fit}")] = (
        "linear"
    )
    """Of two_nn: a line through the origin of the empirical distribution, or the maximum of the likelihood."""
    discard: Annotated[float, Field(ge=0, lt=1), labelled(adds=", {discard} discarded")] = 0.1
    """Of the linear fit: the share of points, those with the largest quotients, that the line is not fitted to."""
    k: Annotated[int, Field(ge=2), labelled(adds=", k = {k}")] = 20
    """Of mle: how many neighbours."""


class IntrinsicDimension(FeatureMeasure[IntrinsicDimensionSpec]):
    r"""Intrinsic dimension of the features.

    With :math:`r_{ij}` the distance of point i to its j-th neighbour and :math:`\mu_i = r_{i2}/r_{i1}`, ``two_nn``
    (Facco et al. 2017) is the slope d of the line :math:`-\log(1 - F(\mu)) = d \log \mu` through the origin, F the
    share of points with a smaller quotient, without the largest tenth of them; or with ``fit: likelihood``

    .. math:: d = n \Big/ \sum_i \log \mu_i

    and ``mle`` (Levina and Bickel 2004, averaged as by MacKay and Ghahramani 2005)

    .. math:: d = \Big( \frac{1}{n (k-1)} \sum_i \sum_{j<k} \log \frac{r_{ik}}{r_{ij}} \Big)^{-1}

    with the number of logarithms of a point, not the k - 2 that makes the dimension at a single point unbiased. Points
    with the same features, each up to its own rounding, count once; the extras say how many were left out.
    """

    name = "intrinsic_dimension"
    traits = Traits(
        level="dataset", larger_means="more dimensions", needs={"unlabeled", "activations"},
        invariant_to=SAME_FEATURES, symbol="ID", label="intrinsic dimension, {method}",
        reference="Facco et al. 2017; Levina & Bickel 2004; MacKay & Ghahramani 2005",
        bibtex=("facco2017estimating", "levina2004maximum", "mackay2005comments"),
    )  # fmt: skip

    def of_features(self, features: Tensor, surface: LossSurface, spec: IntrinsicDimensionSpec) -> Estimate:
        """Return the dimension."""
        from acutance_predictions.representations import neighbours

        k = 2 if spec.method == "two_nn" else spec.k
        found = surface.shared(
            ("neighbours", spec.layer, k),
            lambda: neighbours.of_distinct(features, k, neighbours.precision(surface.dtype)),
        )
        distances = found.distances
        if distances is None:
            raise Unsupported(
                f"{found.points} points that differ by more than rounding are too few for {k} neighbours of each: give "
                "more points"
            )
        if found.unresolved > LOST:
            raise Unsupported(
                f"{found.unresolved:.0%} of the points are no further from the nearest one than their features are "
                "rounded: compute them in float64, or with a smaller offset"
            )
        if spec.method == "mle":
            value = neighbours.maximum_likelihood(distances)
        elif spec.fit == "likelihood":
            value = neighbours.ratio_likelihood(distances)
        else:
            value = neighbours.ratio_line(distances, spec.discard)
        return Estimate(value, extras={"duplicates": len(features) - found.points})
