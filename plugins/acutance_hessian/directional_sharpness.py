"""The curvature along the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance.measure import Cost, Estimate, Status, Traits
from acutance_hessian.spec import CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class DirectionalSpec(ProductSpec):
    """Settings of directional sharpness."""


class DirectionalSharpness(CurvatureMeasure[DirectionalSpec]):
    r"""Curvature along the gradient.

    .. math:: \frac{g_c^\top H_c\, g_c}{\|g_c\|^2}, \qquad g_c = c \odot \nabla L_S(w), \quad
       H_c = \nabla^2 L_S(w) \odot cc^\top

    a Rayleigh quotient of :math:`H_c`, so never above its largest eigenvalue; the second-order term of a gradient step
    in the coordinates where the ball is round (Pan & Li 2022). At a critical point there is no direction: unsupported.
    """

    name = "directional_sharpness"
    traits = Traits(
        larger_means="sharper",
        needs={"gradient", "hvp"},
        invariant_to={"rescaling", "permutation"},
        symbol="g'Hg / g'g",
        label="{scaling} directional sharpness",
        edge={"scaling": "none", "logit_norm": False},
        reference="Pan & Li 2022, directional sharpness",
        bibtex=("pan2022toward",),
    )

    def evaluate(self, surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Estimate:
        """Return the Rayleigh quotient of H_c at c times the gradient."""
        import torch

        from acutance_hessian.operators import Curvature, evaluated, zero_hessian
        from acutance_hessian.slopes import STILL, scaled_gradient

        with torch.no_grad():
            g = scaled_gradient(surface, spec)
            norm = float(torch.linalg.vector_norm(g, dtype=torch.float64))
            if norm == 0:
                return Estimate.without_value(Status.UNSUPPORTED, STILL)
            direction = g / norm

        def estimate(curvature: Curvature) -> Estimate:
            form, square = curvature.quadratic(direction)
            return zero_hessian() if square == 0 else Estimate(form, extras={"gradient_norm": norm})

        return evaluated(surface, spec, rng, estimate)

    def passes(self, spec: DirectionalSpec) -> Cost:
        """The gradient, and one product through a graph of its own."""
        return Cost(forwards=1, backwards=1) + spec.products(1)

    def vectors(self, spec: DirectionalSpec) -> int:
        """The gradient and its direction, the product and its parts; c, and the direction times it."""
        return 2 + spec.product_vectors(few=True)
