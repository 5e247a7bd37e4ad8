"""Confidence optimal transport: the error where the classes are as frequent as on the validation points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from acutance.measure import Estimate, Status, Traits
from acutance.spec import Spec, estimation
from acutance_predictions.measure import SAME_FUNCTION
from acutance_predictions.validated import ValidatedMeasure

if TYPE_CHECKING:
    from torch import Tensor

    from acutance_predictions.outputs import Outputs


class TransportSpec(Spec):
    """Settings of confidence optimal transport."""

    tolerance: Annotated[float, Field(ge=1e-9, le=0.1), estimation()] = 1e-4
    """Largest gap between the cost of the plan and the lower bound of all plans."""


class ConfidenceTransport(ValidatedMeasure[TransportSpec]):
    r"""Least cost of moving the predictions to labels that are as frequent as those of the validation points.

    .. math:: \min_{x \ge 0} \sum_{iy} x_{iy} (1 - p_{iy}), \quad \sum_y x_{iy} = \frac1n, \quad
              \sum_i x_{iy} = q_y,

    :math:`1 - p_{iy} = \|p_i - e_y\|_\infty` the cost and :math:`q_y` the share of label y (Lu et al. 2023). It is at
    least the average-confidence error, the cost without the second constraint, and above it where the predicted classes
    have other frequencies. An auction (Bertsekas and Castañon 1989) finds a plan, whose cost is the value; prices
    :math:`\pi` of the classes prove it: no plan costs less than
    :math:`1 - \sum_y q_y \pi_y - \frac1n \sum_i \max_y (p_{iy} - \pi_y)`. The difference is the ``gap`` of the extras.
    """

    name, version = "cot", 2  # 1 took points that are measured for validation
    traits = Traits(
        level="dataset", larger_means="more errors", better="smaller", needs={"unlabeled", "validation"},
        invariant_to=SAME_FUNCTION,
        symbol="COT", label="error by optimal transport", estimates="error", reference="Lu et al. 2023",
        bibtex=("lu2023predicting", "bertsekas1989auction"),
    )  # fmt: skip

    def beside(self, outputs: Outputs, validation: Outputs, y: Tensor, spec: TransportSpec) -> Estimate:
        """Return the cost of the plan, with its gap and the bids that it took in the extras."""
        from acutance_predictions.transport_numerics import transported

        counts = y.bincount(minlength=outputs.p.shape[1])
        plan = transported(outputs.p.cpu().numpy(), counts.cpu().numpy(), spec.tolerance)
        extras = {"gap": plan.gap, "lower_bound": plan.cost - plan.gap, "bids": plan.bids}
        if plan.gap > spec.tolerance:
            message = f"the cost is known to {plan.gap:.2g} only, not to {spec.tolerance:g}, after {plan.bids} bids"
            return Estimate(plan.cost, status=Status.NOT_CONVERGED, message=message, extras=extras)
        return Estimate(plan.cost, extras=extras)
