"""Curvature at the scales of the weights at which it is least (Tsuzuku et al. 2020; Ibayashi et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveInt

from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import estimation, labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class NormalizedSpec(PartSpec):
    """Settings of normalized sharpness."""

    curvature: Annotated[Literal["hessian", "ggn"], labelled({"hessian": "", "ggn": " (Gauss-Newton)"})] = "hessian"
    """Whose diagonal: of the Hessian, or of its Gauss-Newton part, which has no negative entry."""
    probes: Annotated[PositiveInt, estimation()] = 100
    """Products for the diagonal; of the Hessian exact, by one for each weight, where there are no more weights."""


class NormalizedSharpness(Measure[NormalizedSpec]):
    r"""Sharpness at the row and column scales of each weight matrix at which it is least.

    .. math:: \sum_l \min_{a, b > 0} \sum_{ij} \Big( H_{ij} a_i b_j + \frac{W_{ij}^2}{a_i b_j} \Big)

    over the weight matrices W of linear maps and convolutions, H_ij the second derivative of the loss in W_ij (Tsuzuku
    et al. 2020); for a convolution H and W^2 are summed over the positions of the kernel, and each group is a matrix of
    its own. Rescaling rows or columns changes nothing. Given b the best a is known, and the other way round: taking
    turns converges, since the problem is convex in the logarithms. Negative entries count as zero;
    ``extras["negative_share"]`` says how many there were. Those that only noise made lift the value, by about the share
    ``extras["clipped_noise"]``: above 5 % it is not converged. Probes are taken in units that follow the scales of rows
    and columns, so that the noise changes with them as little as the value. The authors' code was not found; biases
    take no part.
    """

    name, version = "normalized_sharpness", 2
    traits = Traits(
        needs={"hvp"}, stochastic=True, symbol="S_norm", label="normalized sharpness{curvature}",
        reference="Tsuzuku et al. 2020, Eq. 19", bibtex=("tsuzuku2020normalized",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: NormalizedSpec, rng: Streams) -> Estimate:
        """Return the sum over the matrices."""
        from acutance_classic.flatness.scale_free_numerics import normalized_sharpness

        return normalized_sharpness(surface.restricted(spec.parameters), spec, rng)

    def passes(self, spec: NormalizedSpec) -> Cost:
        """A graph and a product a probe; or the logits, their linearization, and one transposed product a probe."""
        if spec.curvature == "ggn":
            return Cost(forwards=2, backwards=spec.probes)
        return Cost(forwards=1, backwards=1, hvps=spec.probes)

    def vectors(self, spec: NormalizedSpec) -> int:
        """Four sets of probes, their mean, squares and errors in double precision; units, probe and product."""
        return 24


class MinimumSpec(PartSpec):
    """Settings of minimum sharpness."""

    probes: Annotated[PositiveInt, estimation()] = 100
    """Products with the transposed Jacobian."""


class MinimumSharpness(Measure[MinimumSpec]):
    r"""Trace of the Gauss-Newton matrix at the scales of the layers at which it is least.

    .. math:: \min_{\prod_l \alpha_l = 1} \sum_{l=1}^n \frac{\mathrm{tr}\, G_{ll}}{\alpha_l^2}
       = n \Big( \prod_l \mathrm{tr}\, G_{ll} \Big)^{1/n}

    over the scales of n layers that leave the function alone (Ibayashi et al. 2021), by the inequality of the means. It
    holds for bias-free positively homogeneous networks, and is unsupported where f(a w) is not a^n f(w). G is the
    Gauss-Newton matrix, whose traces are not negative; with the Hessian the minimum need not exist.
    """

    name = "minimum_sharpness"
    tried_on = "acutance_classic.tried_on:BIAS_FREE"
    traits = Traits(
        needs={"data", "hvp"}, stochastic=True, invariant_to={"permutation"}, symbol="S_min",
        label="minimum sharpness", reference="Ibayashi et al. 2021, Eq. 6", bibtex=("ibayashi2021minimum",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MinimumSpec, rng: Streams) -> Estimate:
        """Return n times the geometric mean of the layers' traces."""
        from acutance_classic.flatness.scale_free_numerics import minimum_sharpness

        return minimum_sharpness(surface.restricted(spec.parameters), spec, rng)

    def passes(self, spec: MinimumSpec) -> Cost:
        """The logits at w and at a multiple of it, their linearization, and one transposed product a probe."""
        return Cost(forwards=3, backwards=spec.probes)
