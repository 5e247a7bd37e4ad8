"""The gradient in the coordinates where the ball is round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from acutance import scaling

if TYPE_CHECKING:
    from acutance.measure import SharpnessSpec
    from acutance.surface import LossSurface

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
