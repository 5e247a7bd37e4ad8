"""Sharpness along geodesics of the quotient by attention's symmetries (da Silva, Dangel & Oore 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveFloat, PositiveInt

from acutance.measure import Cost, Estimate, Traits
from acutance.spec import estimation, labelled
from acutance_classic.flatness.views import GradientMeasure, ViewSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class GeodesicSpec(ViewSpec):
    """Settings of geodesic sharpness."""

    rho: PositiveFloat
    """Radius of the ball, in the metric at w."""
    metric: Annotated[Literal["inv", "mix"], labelled(adds=" ({metric})", always=True)] = "inv"
    """Of a pair (G, H): inv weighs each with its own inverse Gram matrix, mix with the Gram matrix of the other."""
    steps: Annotated[PositiveInt, estimation()] = 20
    """Iterations of Auto-PGD."""


class GeodesicSharpness(GradientMeasure[GeodesicSpec]):
    r"""Largest rise of the loss along geodesics of the weights with attention's symmetries divided out.

    .. math:: \max_{\xi \perp \mathcal V,\ \|\xi\|_w \le \rho} L_S\big(w + \xi - \tfrac12 \Gamma[\xi, \xi]\big) - L_S(w)

    (da Silva, Dangel & Oore 2025). Pairs (G, H) of query and key, and of value and output, count only by G H^T: their
    metric is one of two that do not see a mixing (G A^-1, H A^T), xi has no part along such mixings, and the geodesic
    is bent by the Christoffel symbols. All other weights have the norm of adaptive sharpness, and move straight.
    Biases are a row of G or H; heads that share a key and value (grouped-query attention) are one pair. One forward
    with mixed pairs of each kind tells whether the symmetry is there: rotary embeddings, or a normalization of
    queries and keys, break that of query and key, which then count with the other weights. No public code was found.
    """

    name = "geodesic_sharpness"
    traits = Traits(
        needs={"data", "gradient"}, invariant_to={"head_mixing", "permutation"}, symbol="S_geo",
        label="geodesic sharpness", reference="da Silva, Dangel & Oore 2025", bibtex=("dasilva2025hide",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: GeodesicSpec, rng: Streams) -> Estimate:
        """Return the largest rise found."""
        from acutance_classic.flatness.geodesic_numerics import geodesic_sharpness

        return geodesic_sharpness(surface, spec)

    def passes(self, spec: GeodesicSpec) -> Cost:
        """The gradient, both symmetries, the one-step point, a gradient a step and the last loss."""
        return Cost(forwards=5 + spec.steps, backwards=1 + spec.steps)

    def vectors(self, spec: GeodesicSpec) -> int:
        """As Auto-PGD; the displacement with its graph, places and Gram matrices of the pairs."""
        return 10
