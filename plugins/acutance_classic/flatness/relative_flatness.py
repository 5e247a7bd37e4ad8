"""Relative flatness of a layer (Petzka et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from acutance.measure import Cost, Estimate, Measure, Need, Traits
from acutance.spec import Spec, estimation, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class RelativeFlatnessSpec(Spec):
    """Settings of relative flatness."""

    layer: Annotated[str, Field(min_length=1), labelled(adds=" of {layer}")] = "last"
    """last: the linear layer that gives the logits, in closed form; else the name of a module, by random products."""
    probes: Annotated[PositiveInt, estimation()] = 100
    """Products with the Hessian, for a layer by its name."""


class RelativeFlatness(Measure[RelativeFlatnessSpec]):
    r"""Relative flatness: curvature of a layer, weighted with the inner products of its neurons' weights.

    .. math:: \kappa = \sum_{s, s'} \langle w_s, w_{s'} \rangle\, \mathrm{tr}(H_{s, s'})

    with w_s the rows of the layer's weight and H_{s,s'} the blocks of the Hessian in them (Petzka et al. 2021, by
    traces). For the last layer and cross-entropy it is

    .. math:: \frac1n \sum_i \|\phi_i\|^2 \Big(\sum_c G_{cc} p_c - p^\top G p\Big), \qquad G = W W^\top,

    from features and logits alone, where public code builds all blocks, (K d)^2 numbers. For another layer, a module,
    :math:`\kappa = E_Z \langle WZ, H[WZ] \rangle` over random signs Z, (d, d); filters of a convolution are rows.
    """

    name = "relative_flatness"
    traits = Traits(
        needs={"data", "activations", "hvp"}, stochastic=True, symbol="κ", label="relative flatness",
        invariant_to={"head_mixing", "permutation", "translation"},
        reference="Petzka et al. 2021, Definition 3", bibtex=("petzka2021relative",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: RelativeFlatnessSpec, rng: Streams) -> Estimate:
        """Return the closed form, or the estimate for a layer."""
        from acutance_classic.flatness import relative_flatness_numerics as numerics

        if spec.layer == "last":
            return numerics.of_the_last_layer(surface)
        return numerics.of_a_layer(surface, spec.layer, spec.probes, rng)

    def draws_noise(self, spec: RelativeFlatnessSpec) -> bool:
        """The closed form of the last layer draws none."""
        return spec.layer != "last"

    def needs(self, spec: RelativeFlatnessSpec) -> frozenset[Need]:
        """Features, or products with the Hessian."""
        return frozenset({"data", "activations"} if spec.layer == "last" else {"data", "hvp"})

    def passes(self, spec: RelativeFlatnessSpec) -> Cost:
        """The features, with the logits; or one graph and the products."""
        if spec.layer == "last":
            return Cost(forwards=1)
        return Cost(forwards=1, backwards=1, hvps=spec.probes)
