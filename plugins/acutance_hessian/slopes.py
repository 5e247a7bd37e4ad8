"""The gradient's norms, and the curvature along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.measure import Estimate, SharpnessSpec, Status
from acutance.numerics.draws import Streams
from acutance_hessian.operators import Curvature, guarded

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_hessian.local import DirectionalSpec, GradientNormSpec

DUAL = {"l1": torch.inf, "l2": 2.0, "linf": 1.0}
STILL = (
    "the gradient is exactly zero where c > 0: a critical point, or weights that the loss does not depend on; the "
    "second-order branch of Proposition 1 holds at a critical point: hessian_top_eigenvalue"
)


def scaled_gradient(surface: LossSurface, spec: SharpnessSpec) -> Tensor:
    """Return c times the gradient of the spec's view, (p,)."""
    base = surface.restricted(spec.parameters)
    _, g = base.transformed(spec.logit_norm, spec.norm_scale).gradient()
    c = scaling.vector(base, spec.scaling)
    return g if c is None else g * c


@torch.no_grad()
def gradient_norm(surface: LossSurface, spec: GradientNormSpec) -> Estimate:
    """Return rho times the dual norm of c times the gradient."""
    g = scaled_gradient(surface, spec)
    value = spec.rho * float(torch.linalg.vector_norm(g, DUAL[spec.norm], dtype=torch.float64))
    if value == 0:
        return Estimate.without_value(Status.UNSUPPORTED, STILL)
    return Estimate(value)


@torch.no_grad()
def directional_sharpness(surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Estimate:
    """Return the Rayleigh quotient of H_c at c times the gradient."""
    g = scaled_gradient(surface, spec)
    norm = float(torch.linalg.vector_norm(g, dtype=torch.float64))
    if norm == 0:
        return Estimate.without_value(Status.UNSUPPORTED, STILL)
    direction = g / norm

    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        form, _ = curvature.quadratic(direction)
        return Estimate(form, extras={"gradient_norm": norm})

    return curvature.told(guarded(evaluate))
