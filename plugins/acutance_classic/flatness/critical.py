"""The smallest step along the gradient that no longer lowers the loss (Kalra et al. 2026)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Status, Traits
from acutance.spec import estimation, labelled
from acutance_classic.flatness.views import STILL, GradientMeasure, ViewSpec, view_of

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

FIRST = 1 / 64  # of the step at which the linear model has lost the whole loss: small steps come first
RESOLVED = 16  # roundings of the loss that a fall has to exceed
PLATEAU = (
    "half-way to the critical step the loss has moved by {fall:.1e}, within its rounding: a plateau at these weights; "
    "try dtype float64"
)


class CriticalSpec(ViewSpec):
    """Settings of critical sharpness."""

    direction: Annotated[Literal["gradient"], labelled(adds=", along the {direction}")] = "gradient"
    """The step d: the gradient."""
    rtol: Annotated[float, Field(gt=0, lt=1), estimation()] = 1e-3
    """Relative width of the last bracket of the bisection."""


class CriticalSharpness(GradientMeasure[CriticalSpec]):
    r"""Two over the smallest step along d with which the loss rises.

    .. math:: \lambda_c = \frac{2}{\eta_c}, \qquad \eta_c = \min\{\eta > 0 : L_S(w - \eta\, d) > L_S(w)\}

    (Kalra et al. 2026). In the quadratic model with d = g it is the directional sharpness :math:`g^\top H g / \|g\|^2`;
    forwards alone find it after one gradient, so that any attention kernel will do. By doubling from a small step and
    bisection; between the ends of the last bracket the mean slope :math:`(L_S(w - \eta d) - L_S(w)) / \eta` is taken
    for a straight line, which it is for a quadratic.
    """

    name = "critical_sharpness"
    traits = Traits(
        needs={"data", "gradient"}, invariant_to={"permutation", "translation"}, symbol="λ_c",
        label="critical sharpness", reference="Kalra et al. 2026", bibtex=("kalra2026critical",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: CriticalSpec, rng: Streams) -> Estimate:
        """Return 2 over the critical step."""
        import torch

        with torch.no_grad():
            return critical_sharpness(view_of(surface, spec), spec.rtol)

    def passes(self, spec: CriticalSpec) -> Cost:
        """The gradient; about seven doublings, one loss a halving of the bracket, one to see a plateau."""
        return Cost(forwards=9 + math.ceil(math.log2(1 / spec.rtol)), backwards=1)


def critical_sharpness(view: LossSurface, rtol: float) -> Estimate:
    """Return 2 over the smallest step along minus the gradient with which the loss rises.

    Raises:
        Unsupported: without a gradient, and where no step is found.
    """
    import torch

    from acutance_classic.flatness.crossing import MOST, Crossing

    g = view.gradient()[1]
    squared, clean, point = float(g.double().square().sum()), float(view.clean().loss), view.moving_point()
    if squared == 0:
        raise Unsupported(STILL)
    if not math.isfinite(squared + clean):
        return Estimate(math.nan)

    def rise(eta: float) -> float:
        return float(point.move(g, -eta).value().loss) - clean

    search = Crossing(lambda eta: rise(eta) / eta, FIRST * (abs(clean) or 1.0) / squared, rtol)
    eta = search.find()
    if eta is None:
        what = "rises with none of the" if search.high is None else "rises with each of the"
        raise Unsupported(
            f"the loss {what} {MOST} steps tried along the gradient, {search.steps[0]:.2g} to {search.steps[-1]:.2g} "
            "times it: there is no critical step, or the loss is flat within its rounding (try dtype float64)"
        )
    fall = -rise(eta / 2)
    extras = {"step": eta, "clean_loss": clean, "fall": fall, "evaluations": float(len(search.steps))}
    if abs(fall) <= RESOLVED * torch.finfo(view.w.dtype).eps * abs(clean):
        return Estimate(2 / eta, None, Status.NOT_CONVERGED, PLATEAU.format(fall=abs(fall)), extras=extras)
    return Estimate(2 / eta, extras=extras)
