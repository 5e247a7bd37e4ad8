r"""How alike two geometries of the same points are: of the features and of the labels, or of another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, PoolMeasure, Status, Traits
from acutance.peers import over_partners
from acutance_predictions.measure import NoSettings
from acutance_predictions.representations.classes import ClassMeasure
from acutance_predictions.representations.measure import SAME_FEATURES, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.peers import Peer
    from acutance.surface import LossSurface
    from acutance_predictions.representations.class_means import Classes


class CentredKernelAlignment(ClassMeasure[LayerSpec]):
    r"""Alignment of the centred kernel of the features with that of the labels.

    .. math:: \frac{\langle K_c, Y_c \rangle_F}{\|K_c\|_F \|Y_c\|_F}, \quad K = F F^\top, \quad
        Y_{ij} = 1[y_i = y_j], \quad A_c = (I - \tfrac1n 1 1^\top) A (I - \tfrac1n 1 1^\top)

    (Cortes, Mohri and Rostamizadeh 2012). Between 0 and 1.
    """

    name = "centred_kernel_alignment"
    traits = Traits(
        level="dataset", larger_means="closer to the labels", needs={"data", "activations"},
        invariant_to=SAME_FEATURES, symbol="CKTA", label="centred kernel-target alignment",
        reference="Cortes et al. 2012", bibtex=("cortes2012algorithms",),
    )  # fmt: skip

    def of_classes(self, classes: Classes, surface: LossSurface, spec: LayerSpec) -> float:
        """Return the alignment."""
        import torch

        from acutance_predictions.representations.kernels import alignment

        one_hot = torch.nn.functional.one_hot(classes.of, len(classes.numbers)).double()
        return alignment(classes.features, one_hot, classes.precision)


class CKA(PoolMeasure[NoSettings]):
    r"""Linear centred kernel alignment with another model's penultimate features, on average over the other models.

    .. math:: \frac{\|F_c^\top G_c\|_F^2}{\|F_c^\top F_c\|_F \|G_c^\top G_c\|_F}

    (Kornblith et al. 2019), F and G the features of both, centred. Between 0 and 1, and biased upwards where there are
    fewer points than dimensions. Models may differ in architecture and width.
    """

    name = "cka"
    traits = Traits(
        level="pool", larger_means="alike", needs={"peers", "unlabeled", "activations"}, invariant_to=SAME_FEATURES,
        symbol="CKA", label="linear CKA", reference="Kornblith et al. 2019", bibtex=("kornblith2019similarity",),
    )  # fmt: skip

    def evaluate_pool(self, peers: Sequence[Peer], spec: NoSettings, rng: Streams) -> list[Estimate]:
        """Return the mean over the partners of each model; a pair with constant, infinite or no features has none."""
        from acutance_predictions.representations.kernels import alignments

        features: list[Tensor | None] = []
        without: dict[int, Estimate] = {}
        for i, peer in enumerate(peers):
            try:
                features.append(peer.features())
            except Unsupported as error:
                features.append(None)
                without[i] = Estimate.without_value(Status.UNSUPPORTED, f"model {peer.name} has no features: {error}")
        return [without.get(i, one) for i, one in enumerate(over_partners(alignments(features), peers))]

    def passes(self, spec: NoSettings) -> Cost:
        """The forward that gives features and outputs."""
        return Cost(forwards=1)

    def shares(self, spec: NoSettings) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"

    def vectors(self, spec: NoSettings) -> int:
        """No vector of the size of the weights."""
        return 0
