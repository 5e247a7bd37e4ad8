"""Slope and curvature along the gradient: what an infinitesimal ball sees first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveFloat

from acutance.measure import NORMS, Cost, Estimate, Traits
from acutance.spec import labelled
from acutance_hessian.spec import CurvatureMeasure, LevelSpec, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class GradientNormSpec(LevelSpec):
    """Settings of the norm of the gradient."""

    rho: PositiveFloat = 1.0
    """Radius of the ball, in the coordinates delta / c; the value is proportional to it."""
    norm: Annotated[Literal["l1", "l2", "linf"], labelled(NORMS)] = "l2"
    """Norm of the ball; the dual norm of the gradient is taken."""


class GradientNorm(CurvatureMeasure[GradientNormSpec]):
    r"""Dual norm of the gradient, the first-order branch of Proposition 1.

    .. math:: \rho\, \|c \odot \nabla L_S(w)\|_q, \qquad \tfrac1p + \tfrac1q = 1

    the limit of worst-case sharpness in the ball :math:`\|\delta \oslash c\|_p \le \rho` for a small radius, where
    the gradient is not zero (Andriushchenko et al. 2023, Proposition 1). At a critical point it is unsupported:
    the second-order branch, ``hessian_top_eigenvalue``, holds there.
    """

    name = "gradient_norm"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"gradient"},
        invariant_to={"rescaling", "permutation"},
        symbol="||c g||",
        label="{scaling} gradient norm {norm}",
        reference="Andriushchenko et al. 2023, Proposition 1",
        bibtex=("andriushchenko2023modern",),
    )

    def evaluate(self, surface: LossSurface, spec: GradientNormSpec, rng: Streams) -> Estimate | float:
        """Return rho times the dual norm."""
        from acutance_hessian.slopes import gradient_norm

        return gradient_norm(surface, spec)

    def passes(self, spec: GradientNormSpec) -> Cost:
        """One gradient."""
        return Cost(forwards=1, backwards=1)

    def vectors(self, spec: GradientNormSpec) -> int:
        """The gradient; c, and c times it."""
        return 2 + (spec.scaling != "none")


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
        level="batch",
        larger_means="sharper",
        needs={"gradient", "hvp"},
        invariant_to={"rescaling", "permutation"},
        symbol="g'Hg / g'g",
        label="{scaling} directional sharpness",
        reference="Pan & Li 2022, directional sharpness",
        bibtex=("pan2022toward",),
    )

    def evaluate(self, surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Estimate | float:
        """Return the Rayleigh quotient."""
        from acutance_hessian.slopes import directional_sharpness

        return directional_sharpness(surface, spec, rng)

    def passes(self, spec: DirectionalSpec) -> Cost:
        """The gradient, and one product through a graph of its own."""
        return Cost(forwards=1, backwards=1) + spec.products(1)

    def vectors(self, spec: DirectionalSpec) -> int:
        """The gradient and its direction, the product and its parts; c, and the direction times it."""
        return 2 + spec.product_vectors()
