"""The gradient in the coordinates where the ball is round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.measure import Estimate, Status

if TYPE_CHECKING:
    from acutance.measure import SharpnessSpec
    from acutance.surface import LossSurface
    from acutance_hessian.gradient_norm import GradientNormSpec

STILL = (
    "the gradient is exactly zero where c > 0: a critical point, or weights that the loss does not depend on; the "
    "second-order branch of Proposition 1 holds at a critical point: hessian_top_eigenvalue"
)


def scaled_gradient(surface: LossSurface, spec: SharpnessSpec) -> Tensor:
    """Return c times the gradient of the spec's view, (p,), for reading: with c = 1 it is the one that is shared."""
    base = surface.restricted(spec.parameters)
    g = base.transformed(spec.logit_norm, spec.norm_scale).clean_gradient().gradient
    assert g is not None
    c = scaling.vector(base, spec.scaling)
    return g if c is None else g * c


@torch.no_grad()
def dual_norm(surface: LossSurface, spec: GradientNormSpec, order: float) -> Estimate:
    """Return rho times the norm of an order of c times the gradient; beside native weights that is in parts."""
    base = surface.restricted(spec.parameters)
    view, units = base.transformed(spec.logit_norm, spec.norm_scale), None
    if view.in_parts:
        units = scaling.units(base, spec.scaling)
        norm = view.gradient_apart(units).norm(order)
    else:
        norm = float(torch.linalg.vector_norm(scaled_gradient(surface, spec), order, dtype=torch.float64))
    if spec.rho * norm == 0:
        return Estimate.without_value(Status.UNSUPPORTED, STILL)
    return view.against_gradient_rounding(Estimate(spec.rho * norm), units)
