r"""Norms of the matrix of predictions, without labels: large where a model is sure, and of many classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Estimate, Traits
from acutance.spec import Spec, labelled
from acutance_predictions.measure import SAME_FUNCTION, NoSettings, OutputMeasure

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_predictions.outputs import Outputs

# The polynomial is another one where a constant is added to all logits.
SAME_LOGITS = SAME_FUNCTION - {"translation"}


TWO = (
    "of two classes the polynomial, less the smaller value and divided by the sum, gives one 1 and the other 0 on "
    "every point: take normalization: softmax"
)
ENDLESS = (
    "there is no polynomial of a logit of minus infinity, with which a class is taken away: take normalization: softmax"
)


class ManoSpec(Spec):
    """Settings of MaNo."""

    p: Annotated[float, Field(ge=1, le=100), labelled(adds=", p = {p}")] = 4.0
    """Order of the norm."""
    threshold: Annotated[float, labelled(adds=", threshold {threshold}")] = 5.0
    """Mean cross-entropy to the uniform distribution above which auto takes the softmax."""
    normalization: Annotated[Literal["auto", "softmax", "taylor"], labelled(adds=", {normalization}")] = "auto"
    """How logits are made probabilities."""


class MaNo(OutputMeasure[ManoSpec]):
    r"""Norm of all normalized outputs.

    .. math:: \Big(\frac{1}{nK} \sum_{ik} q_{ik}^p\Big)^{1/p}

    (Xie et al. 2024). q is the softmax where the mean cross-entropy of the uniform distribution and the softmax,
    :math:`-\frac{1}{nK}\sum_{ik} \log p_{ik}`, is above a threshold; else :math:`1 + z + z^2/2` of the logits, less the
    smallest of the point, divided by its sum. A point whose K values are all the same has 1/K each. The polynomial
    changes where a constant is added to all logits of a point, and says nothing of two classes: one of them has 1 on
    every point. A class with a logit of minus infinity has q = 0 and makes the cross-entropy infinite; it has no
    polynomial. Between :math:`1/K` and :math:`K^{-1/p}`.
    """

    name = "mano"
    traits = Traits(
        level="dataset", larger_means="more accurate", better="larger", needs={"unlabeled"},
        invariant_to=SAME_LOGITS, symbol="MaNo",
        label="MaNo", reference="Xie et al. 2024", bibtex=("xie2024mano",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: ManoSpec) -> Estimate:
        """Return the norm; the extras say how the outputs were normalized."""
        from acutance_predictions.output_norms_numerics import power_mean, taylor_probabilities
        from acutance_predictions.outputs import blocks

        extras: dict[str, float | str] = {"normalization": spec.normalization}
        if spec.normalization == "auto":
            criterion = -float(outputs.mean_log_p.mean())
            extras = {"normalization": "softmax" if criterion > spec.threshold else "taylor", "criterion": criterion}
            if math.isinf(criterion):  # a class was taken away
                del extras["criterion"]
        if extras["normalization"] == "softmax":
            parts = iter(blocks(outputs.p))
        else:
            if outputs.logits.shape[1] == 2:
                raise Unsupported(TWO)
            if bool(outputs.logits.isinf().any()):
                raise Unsupported(ENDLESS)
            parts = map(taylor_probabilities, blocks(outputs.logits))
        return Estimate(power_mean(parts, spec.p), extras=extras)


class NuclearNorm(OutputMeasure[NoSettings]):
    r"""Nuclear norm of the probabilities P, (n, K), the sum of their singular values, over its largest value.

    .. math:: \frac{\|P\|_*}{\sqrt{n \min(n, K)}}

    (Deng et al. 2023). It is 1 for a model that is certain and predicts all classes equally often, and small where it
    is unsure, or predicts few of the classes.
    """

    name = "nuclear_norm"
    traits = Traits(
        level="dataset", larger_means="more accurate", better="larger", needs={"unlabeled"},
        invariant_to=SAME_FUNCTION, symbol="‖P‖∗",
        label="nuclear norm of predictions", reference="Deng et al. 2023", bibtex=("deng2023confidence",),
    )  # fmt: skip

    def of_outputs(self, outputs: Outputs, surface: LossSurface, spec: NoSettings) -> float:
        """Return the norm over its largest value."""
        from acutance_predictions.output_norms_numerics import nuclear_norm

        n, classes = outputs.p.shape
        return nuclear_norm(outputs.p) / math.sqrt(n * min(n, classes))
