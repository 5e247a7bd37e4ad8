r"""The error that a model's confidence lets expect where there are no labels.

:math:`p_{ik}` are the softmax probabilities of the points, :math:`c_i = \max_k p_{ik}` their confidence; what is known
of validation points has a V.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Estimate, Traits
from acutance.spec import Spec, labelled
from acutance_predictions.measure import SAME_FUNCTION, NoSettings, OutputMeasure
from acutance_predictions.validated import ValidatedMeasure

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface
    from acutance_predictions.outputs import Outputs


SAME = 1e-6  # relative difference of 1 - confidence, or of entropy, that is rounding
TIED = 0.05  # share of the validation points by which ties may move the one below the threshold


class AverageConfidence(OutputMeasure[NoSettings]):
    r"""The error of a calibrated model.

    .. math:: 1 - \frac1n \sum_i c_i

    (Hendrycks and Gimpel 2017; Guillory et al. 2021). Models are seldom calibrated away from what they were trained on:
    it is too small mostly.
    """

    name = "average_confidence"
    traits = Traits(
        level="dataset", larger_means="more errors", better="smaller", needs={"unlabeled"},
        invariant_to=SAME_FUNCTION, symbol="AC",
        label="error by average confidence", estimates="error", reference="Hendrycks & Gimpel 2017",
        bibtex=("hendrycks2017baseline", "guillory2021predicting"),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> float:
        """Return what the mean confidence leaves."""
        return float((1 - outputs.confidence).mean())


class DifferenceOfConfidences(ValidatedMeasure[NoSettings]):
    r"""The error on the validation points, and by how much the confidence falls.

    .. math:: \mathrm{err}_V + \overline{c_V} - \bar c

    (Guillory et al. 2021, a slope of 1). It is not kept between 0 and 1.
    """

    name, version = "difference_of_confidences", 2  # 1 took points that are measured for validation
    traits = Traits(
        level="dataset", larger_means="more errors", better="smaller", needs={"unlabeled", "validation"},
        invariant_to=SAME_FUNCTION,
        symbol="DoC", label="error by difference of confidences", estimates="error", reference="Guillory et al. 2021",
        bibtex=("guillory2021predicting",),
    )  # fmt: skip

    def beside(self, outputs: Outputs, validation: Outputs, y: Tensor, spec: NoSettings) -> Estimate:
        """Return the sum, with the error on the validation points in the extras."""
        error = float((validation.classes != y).double().mean())
        fall = float(validation.confidence.mean() - outputs.confidence.mean())
        return Estimate(error + fall, extras={"validation_error": error, "fall": fall})


class ThresholdSpec(Spec):
    """Settings of the thresholded confidence."""

    score: Annotated[Literal["max_confidence", "negative_entropy"], labelled(adds=", negative entropy")] = (
        "max_confidence"
    )
    """How sure a model is of a point: the largest probability, or the negative entropy of all of them."""


class AverageThresholdedConfidence(ValidatedMeasure[ThresholdSpec]):
    r"""Share of points of which the model is less sure than a threshold, below which validation points are its errors.

    .. math:: \frac1n \sum_i [s_i < t], \quad t = s_{V (e + 1)}

    with e errors among the validation points and :math:`s_{V(j)}` the j-th smallest of their scores, so that the
    share of them below t is their error (Garg et al. 2022, Eqs. 1 and 2). Of equal scores fewer may be below; there is
    no value where the share is further from the error than 0.05 and two standard errors, or where every validation
    point is wrong. A point as sure as the threshold, up to rounding, is not below it.
    """

    name, version = "average_thresholded_confidence", 2  # 1 took points that are measured for validation
    traits = Traits(
        level="dataset", larger_means="more errors", better="smaller", needs={"unlabeled", "validation"},
        invariant_to=SAME_FUNCTION,
        symbol="ATC", label="error by thresholded confidence", estimates="error", reference="Garg et al. 2022",
        bibtex=("garg2022leveraging",),
    )  # fmt: skip

    def beside(self, outputs: Outputs, validation: Outputs, y: Tensor, spec: ThresholdSpec) -> Estimate:
        """Return the share, with the threshold and the error on the validation points in the extras."""
        wrong = int((validation.classes != y).sum())
        if wrong == len(y):
            raise Unsupported("every validation point is wrong, so that no threshold divides right from wrong ones")
        sure = 1.0 if spec.score == "max_confidence" else 0.0  # the largest score
        # How far from sure: falls as the score grows, and is known to the precision of the logits however small it is.
        points, others = ((1 - one.confidence if sure else one.entropy) for one in (outputs, validation))
        threshold = float(others.sort(descending=True).values[wrong])
        share, below = (float((one > threshold * (1 + SAME)).double().mean()) for one in (points, others))
        error = wrong / len(y)
        if abs(below - error) > max(TIED, 2 * math.sqrt(error * (1 - error) / len(y))):
            raise Unsupported(
                f"the scores of validation points tie, as saturated ones do: {below:.3g} of them are below the "
                f"threshold, {error:.3g} are wrong"
            )
        extras = {"threshold": sure - threshold, "validation_error": error, "validation_below": below}
        return Estimate(share, extras=extras)
