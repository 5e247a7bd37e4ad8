r"""How sure a model is of its predictions, without labels; :math:`p_{ik}` are its softmax probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance.measure import Traits
from acutance_predictions.measure import SAME_FUNCTION, NoSettings, OutputMeasure

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_predictions.outputs import Outputs


class MeanConfidence(OutputMeasure[NoSettings]):
    r"""Mean of the largest probability.

    .. math:: \frac1n \sum_i \max_k p_{ik}

    (Hendrycks and Gimpel 2017). What a calibrated model gets right; grows with the scale of the logits.
    """

    name = "mean_confidence"
    traits = Traits(
        level="dataset", larger_means="more confident", better="larger", needs={"unlabeled"},
        invariant_to=SAME_FUNCTION, symbol="p̄", label="mean confidence", reference="Hendrycks & Gimpel 2017",
        bibtex=("hendrycks2017baseline",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> float:
        """Return the mean."""
        return float(outputs.confidence.mean())


class PredictionEntropy(OutputMeasure[NoSettings]):
    r"""Mean entropy of the predictions, in nats.

    .. math:: -\frac1n \sum_i \sum_k p_{ik} \log p_{ik}

    between 0 and log K (Grandvalet and Bengio 2004).
    """

    name = "prediction_entropy"
    traits = Traits(
        level="dataset", larger_means="less certain", better="smaller", needs={"unlabeled"}, invariant_to=SAME_FUNCTION,
        symbol="H", label="prediction entropy", reference="Grandvalet & Bengio 2004",
        bibtex=("grandvalet2004entropy",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> float:
        """Return the mean."""
        return float(outputs.entropy.mean())


class ConfidenceMargin(OutputMeasure[NoSettings]):
    r"""Mean gap between the two largest probabilities.

    .. math:: \frac1n \sum_i \big(p_{i(1)} - p_{i(2)}\big)

    (Scheffer, Decomain and Wrobel 2001).
    """

    name = "confidence_margin"
    traits = Traits(
        level="dataset", larger_means="more confident", better="larger", needs={"unlabeled"},
        invariant_to=SAME_FUNCTION, symbol="p₁−p₂", label="margin of confidence", reference="Scheffer et al. 2001",
        bibtex=("scheffer2001active",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> float:
        """Return the mean."""
        first, second = outputs.p.topk(2, dim=1).values.unbind(1)
        return float((first - second).mean())
