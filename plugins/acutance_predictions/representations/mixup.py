r"""What a model makes of points that are mixed within their class, or changed so that they keep it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.measure import Cost, Estimate, Measure, Status, Traits
from acutance.spec import Spec, estimation, labelled
from acutance_predictions.measure import SAME_FUNCTION, TAKEN_AWAY
from acutance_predictions.representations.measure import FeatureMeasure, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

Share = Annotated[float, Field(gt=0, lt=1), labelled(adds=", λ = {share}")]


class MixupSpec(Spec):
    """How points are mixed."""

    share: Share = 0.5
    """λ, the share of the first point of a pair."""
    draws: Annotated[int, Field(ge=1), estimation()] = 2
    """How often every point gets a partner."""


class MixupAccuracy(Measure[MixupSpec]):
    r"""Accuracy on points mixed with others of their class.

    .. math:: \frac{1}{Dn} \sum_{t,i} 1\big[\arg\max_k f_k(\lambda x_i + (1 - \lambda) x_{\pi_t(i)}) = y_i\big]

    :math:`\pi_t` a random cycle through the points of each class, so that nobody is mixed with itself unless it is
    alone (Natekar and Sharma 2020).
    """

    name = "mixup_accuracy"
    traits = Traits(
        level="dataset", larger_means="classes are convex", needs={"data"}, stochastic=True, invariant_to=SAME_FUNCTION,
        symbol="mixup", label="mixup accuracy", reference="Natekar & Sharma 2020",
        bibtex=("natekar2020representation",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MixupSpec, rng: Streams) -> Estimate:
        """Return the accuracy, with its error over the draws."""
        from acutance.numerics.traces import mean_and_error
        from acutance_predictions.representations.changed_points import mixed

        found = mixed(surface, spec.share, spec.draws, rng)
        if found.lost:
            return Estimate.without_value(Status.NONFINITE, found.lost)
        return Estimate(*mean_and_error(list(found.accuracies)))

    def passes(self, spec: MixupSpec) -> Cost:
        """A forward a draw, and the outputs that say how many classes there are."""
        return Cost(forwards=spec.draws + 1)

    def shares(self, spec: MixupSpec) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"

    def vectors(self, spec: MixupSpec) -> int:
        """No vector of the size of the weights."""
        return 0


class MixupDaviesBouldinSpec(MixupSpec, LayerSpec):
    """How points are mixed, what is asked of them, and which features are looked at."""

    factor: Annotated[Literal["loss", "error"], labelled({"loss": "loss", "error": "error"})] = "loss"
    """Of the mixed points: their mean negative log likelihood, as in released code, or the share that is wrong."""


class MixupDaviesBouldin(FeatureMeasure[MixupDaviesBouldinSpec]):
    r"""Davies-Bouldin index of the features times the loss on mixed points.

    .. math:: \mathrm{DB} \cdot \frac{1}{Dn} \sum_{t,i} -\log p_{y_i}\big(\lambda x_i + (1-\lambda) x_{\pi_t(i)}\big)

    of ``davies_bouldin`` and the mixed points of ``mixup_accuracy``; with ``factor: error`` the index times 1 less that
    accuracy. The product won the PGDL competition (Natekar and Sharma 2020), there with the pooled features of an early
    layer and the mean over classes, not the largest, within the index.
    """

    name = "mixup_davies_bouldin"
    traits = Traits(
        level="dataset", larger_means="classes overlap", needs={"data", "activations"}, stochastic=True,
        invariant_to={"head_mixing", "permutation", "translation"}, symbol="DB·mixup",
        label="Davies-Bouldin index times mixup {factor}", reference="Natekar & Sharma 2020",
        bibtex=("natekar2020representation",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MixupDaviesBouldinSpec, rng: Streams) -> Estimate:
        """Return the product, with its factors in the extras."""
        from acutance.numerics.traces import mean_and_error
        from acutance_predictions.representations.changed_points import mixed

        index = Estimate.of(super().evaluate(surface, spec, rng))
        if index.status is not Status.OK:
            return index
        found = mixed(surface, spec.share, spec.draws, rng)
        if found.lost:
            return Estimate.without_value(Status.NONFINITE, found.lost)
        if spec.factor == "loss" and not all(map(math.isfinite, found.losses)):
            return Estimate.without_value(Status.NONFINITE, f"the labels of mixed points {TAKEN_AWAY}")
        factors = found.losses if spec.factor == "loss" else [1 - accuracy for accuracy in found.accuracies]
        value, stderr = mean_and_error([index.value * factor for factor in factors])
        extras = {"davies_bouldin": index.value, "mixup_accuracy": sum(found.accuracies) / spec.draws}
        return Estimate(value, stderr, extras=extras)

    def of_features(self, features: Tensor, surface: LossSurface, spec: MixupDaviesBouldinSpec) -> float:
        """Return the index."""
        from acutance_predictions.representations.class_means import class_means, davies_bouldin

        return davies_bouldin(class_means(surface, spec.layer))

    def passes(self, spec: MixupDaviesBouldinSpec) -> Cost:
        """Those of both."""
        return Cost(forwards=spec.draws + (1 if spec.layer == "penultimate" else 2))

    def shares(self, spec: MixupDaviesBouldinSpec) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"
