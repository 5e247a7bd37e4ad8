r"""Whether a model is as often right as it says, with labels; :math:`p_{ik}` are its softmax probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from acutance.measure import Estimate, Status, Traits
from acutance.spec import Size, Spec, estimation, labelled
from acutance_predictions.measure import SAME_FUNCTION, TAKEN_AWAY, NoSettings, OutputMeasure

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_predictions.outputs import Outputs


class CalibrationSpec(Spec):
    """Settings of the expected calibration error."""

    bins: Annotated[Size, labelled(adds=", {bins} bins")] = 15
    """Number of bins of the confidence."""
    binning: Annotated[Literal["equal_width", "equal_mass"], labelled(adds=", equal mass")] = "equal_width"
    """equal_width: (0, 1/B], (1/B, 2/B] ...; equal_mass: between the order statistics of ranks n/B, 2n/B ..."""
    debiased: Annotated[bool, estimation(adds=", debiased")] = False
    """Subtract what the noise of the accuracies of the bins adds."""


class ExpectedCalibrationError(OutputMeasure[CalibrationSpec]):
    r"""Expected calibration error: the mean gap between confidence and accuracy over bins of the confidence.

    .. math:: \sum_b \frac{n_b}{n} |g_b|, \quad g_b = \overline{\mathrm{conf}}_b - \mathrm{acc}_b

    (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017), with right-closed bins of the largest probability; equal ones
    are always in one bin. It is too large by what the noise of the accuracies adds, most of all for many bins. With
    ``debiased`` the normal approximation of that is subtracted (Kumar, Liang and Ma 2019): where the gap scatters with
    :math:`\sigma_b^2 = \mathrm{acc}_b (1 - \mathrm{acc}_b) / n_b`, its magnitude is on average the mean of a folded
    normal variable, so that

    .. math:: \sum_b \frac{n_b}{n} \Big(2 |g_b| - \sigma_b \sqrt{2/\pi}\, e^{-g_b^2 / 2 \sigma_b^2}
              - g_b\, \mathrm{erf}\big(g_b / \sigma_b \sqrt2\big)\Big).

    That may be below 0 for a calibrated model, and takes away only a part of the bias there.
    """

    name = "expected_calibration_error"
    traits = Traits(
        level="dataset", larger_means="worse calibrated", better="smaller", needs={"data"},
        invariant_to=SAME_FUNCTION, symbol="ECE",
        label="calibration error", curves={"reliability": ("mean confidence of the bin", "accuracy")},
        reference="Guo et al. 2017", bibtex=("pakdamannaeini2015obtaining", "guo2017calibration", "kumar2019verified"),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: CalibrationSpec) -> Estimate:
        """Return the mean gap, with the reliability curve in the extras."""
        from acutance_predictions.calibration_numerics import binned
        from acutance_predictions.outputs import labels

        right = outputs.classes == labels(surface)
        bins = binned(outputs.confidence, right, spec.bins, spec.binning)
        value = bins.gap - bins.bias if spec.debiased else bins.gap
        curve = {"x": bins.confidence.tolist(), "y": bins.accuracy.tolist()}
        return Estimate(value, extras={"reliability": curve, "bias": bins.bias, "filled_bins": len(bins.share)})


class NegativeLogLikelihood(OutputMeasure[NoSettings]):
    r"""Mean negative logarithm of the probability of the label, in nats.

    .. math:: -\frac1n \sum_i \log p_{i y_i}

    It is the cross-entropy, whatever the loss of the study is.
    """

    name = "negative_log_likelihood"
    traits = Traits(
        level="dataset", larger_means="less likely labels", better="smaller", needs={"data"},
        invariant_to=SAME_FUNCTION,
        symbol="NLL", label="negative log likelihood", reference="Guo et al. 2017", bibtex=("guo2017calibration",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> Estimate | float:
        """Return the mean; none where a label has no probability."""
        from acutance_predictions.outputs import labels

        log_p = outputs.log_p(labels(surface))
        if lost := int(log_p.isinf().sum()):
            return Estimate.without_value(Status.NONFINITE, f"the labels of {lost} of {len(log_p)} points {TAKEN_AWAY}")
        return -float(log_p.mean())


class BrierScore(OutputMeasure[NoSettings]):
    r"""Mean squared distance between probabilities and label, summed over the classes.

    .. math:: \frac1n \sum_i \sum_k \big(p_{ik} - [k = y_i]\big)^2

    between 0 and 2 (Brier 1950). Half of it is what two classes are often given.
    """

    name = "brier_score"
    traits = Traits(
        level="dataset", larger_means="worse probabilities", better="smaller", needs={"data"},
        invariant_to=SAME_FUNCTION,
        symbol="BS", label="Brier score", reference="Brier 1950", bibtex=("brier1950verification",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> float:
        """Return the mean."""
        from acutance_predictions.outputs import labels

        own = outputs.p.gather(1, labels(surface)[:, None])[:, 0]
        # Without a table of labels; near a certain label the terms cancel, and each is small in itself.
        others = outputs.squares - own**2
        return float((others.clamp(min=0) + (1 - own) ** 2).mean())


class Temperature(OutputMeasure[NoSettings]):
    r"""The temperature that the logits lack: what makes the labels likeliest.

    .. math:: \hat T = \arg\min_T -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}

    (Guo et al. 2017). Above 1 a model is too sure of itself. Convex in 1/T; there is none where no logit of any
    point is above the label's (T to 0), where the logits of the labels are on average no larger than those of all
    classes (T to infinity), or where a label's logit is minus infinity.
    """

    name = "temperature"
    traits = Traits(
        level="dataset", larger_means="too confident", needs={"data"}, invariant_to=SAME_FUNCTION, symbol="T",
        label="temperature", reference="Guo et al. 2017", bibtex=("guo2017calibration",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> Estimate:
        """Return the minimum, with the negative log likelihood there in the extras."""
        from acutance_predictions.calibration_numerics import best_temperature
        from acutance_predictions.outputs import labels

        return best_temperature(outputs.logits, labels(surface))
