r"""How the features of a layer lie around the means of their classes; labels are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Traits
from acutance.spec import labelled
from acutance_predictions.representations.measure import (
    PENULTIMATE,
    SAME_FEATURES,
    FeatureMeasure,
    LayerSpec,
    LayerSpecT,
)

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface
    from acutance_predictions.representations.class_means import Classes

METRICS = {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3", "nc4": "NC4"}


class ClassMeasure(FeatureMeasure[LayerSpecT]):
    """A function of features and labels."""

    def of_classes(self, classes: Classes, surface: LossSurface, spec: LayerSpecT) -> Estimate | float:
        """Return the value, from features of two classes at least."""
        raise NotImplementedError

    def of_features(self, features: Tensor, surface: LossSurface, spec: LayerSpecT) -> Estimate | float:
        """Return the value."""
        from acutance_predictions.representations.class_means import class_means

        return self.of_classes(class_means(surface, spec.layer), surface, spec)

    def passes(self, spec: LayerSpecT) -> Cost:
        """A forward for the outputs and the penultimate features, another one for those of a named layer."""
        return Cost(forwards=1 if spec.layer == PENULTIMATE else 2)

    def shares(self, spec: LayerSpecT) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"


class NeuralCollapseSpec(LayerSpec):
    """Which features, and which of the four signs of collapse."""

    metric: Annotated[Literal["nc1", "nc2", "nc3", "nc4"], labelled(METRICS)] = "nc1"
    """nc1: spread within classes; nc2: means form no simplex; nc3: last layer and means differ; nc4: nearest mean."""


class NeuralCollapse(ClassMeasure[NeuralCollapseSpec]):
    r"""How far the features are from neural collapse; each metric is 0 for features that have collapsed.

    With the class means :math:`\mu_c`, their mean :math:`\mu_G`, :math:`m_c = \mu_c - \mu_G`, the covariance
    :math:`\Sigma_W = \frac1n \sum_i (\phi_i - \mu_{y_i})(\phi_i - \mu_{y_i})^\top` within and
    :math:`\Sigma_B = \frac1K \sum_c m_c m_c^\top` between classes (Papyan, Han and Donoho 2020):

    .. math:: \mathrm{NC1} = \mathrm{tr}(\Sigma_W \Sigma_B^+) / K,

    .. math:: \mathrm{NC2} = \frac{\mathrm{std}_c \|m_c\|}{\mathrm{mean}_c \|m_c\|}
        + \mathrm{std}_{c \ne c'} \cos(m_c, m_{c'})

    .. math:: \mathrm{NC3} = \big\| W/\|W\|_F - M/\|M\|_F \big\|_F^2, \quad
        \mathrm{NC4} = \tfrac1n \big|\{i : \arg\max_k f_k(x_i) \ne \arg\min_c \|\phi_i - \mu_c\|\}\big|

    K counts the classes that have points, the rows of M are :math:`m_c`, W is the last layer's weight.
    """

    name = "neural_collapse"
    traits = Traits(
        level="dataset", larger_means="less collapsed", needs={"data", "activations"}, invariant_to=SAME_FEATURES,
        symbol="NC", label="neural collapse {metric}", reference="Papyan et al. 2020", bibtex=("papyan2020prevalence",),
    )  # fmt: skip

    def of_classes(self, classes: Classes, surface: LossSurface, spec: NeuralCollapseSpec) -> Estimate | float:
        """Return the metric."""
        from acutance_predictions.representations import collapse

        if spec.metric == "nc1":
            return collapse.within_over_between(classes)
        if spec.metric == "nc2":
            return collapse.simplex(classes)
        if spec.metric == "nc3":
            if spec.layer != PENULTIMATE:
                raise Unsupported("nc3 holds the last layer's weights against what goes into it: leave 'layer' away")
            return collapse.self_duality(classes, surface.last_layer().weight.double())
        return collapse.other_than_nearest(classes, surface.clean_logits())


class ClassDistanceNormalizedVariance(ClassMeasure[LayerSpec]):
    r"""Variance within classes over the squared distance between them, on average over pairs of classes.

    .. math:: \frac{1}{K(K-1)} \sum_{c \ne c'} \frac{v_c + v_{c'}}{2 \|\mu_c - \mu_{c'}\|^2}, \quad
        v_c = \frac{1}{n_c} \sum_{y_i = c} \|\phi_i - \mu_c\|^2

    (Galanti, György and Hutter 2022).
    """

    name = "class_distance_normalized_variance"
    traits = Traits(
        level="dataset", larger_means="classes overlap", needs={"data", "activations"}, invariant_to=SAME_FEATURES,
        symbol="CDNV", label="class-distance normalized variance", reference="Galanti et al. 2022",
        bibtex=("galanti2022role",),
    )  # fmt: skip

    def of_classes(self, classes: Classes, surface: LossSurface, spec: LayerSpec) -> float:
        """Return the mean over pairs."""
        variance = classes.mean_within(classes.distances.square())
        return float(classes.off_diagonal((variance[:, None] + variance) / 2 / classes.between().square()).mean())


class DaviesBouldin(ClassMeasure[LayerSpec]):
    r"""Davies-Bouldin index of the features with the labels as clusters.

    .. math:: \frac1K \sum_c \max_{c' \ne c} \frac{s_c + s_{c'}}{\|\mu_c - \mu_{c'}\|}, \quad
        s_c = \frac{1}{n_c} \sum_{y_i = c} \|\phi_i - \mu_c\|

    (Davies and Bouldin 1979, with distances as scikit-learn's; for networks Natekar and Sharma 2020).
    """

    name = "davies_bouldin"
    traits = Traits(
        level="dataset", larger_means="classes overlap", needs={"data", "activations"}, invariant_to=SAME_FEATURES,
        symbol="DB", label="Davies-Bouldin index", reference="Davies & Bouldin 1979; Natekar & Sharma 2020",
        bibtex=("davies1979cluster", "natekar2020representation"),
    )  # fmt: skip

    def of_classes(self, classes: Classes, surface: LossSurface, spec: LayerSpec) -> float:
        """Return the mean over classes of the worst neighbour."""
        from acutance_predictions.representations.class_means import davies_bouldin

        return davies_bouldin(classes)
