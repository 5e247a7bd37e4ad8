"""Functions of the spectrum: Frobenius norm, effective dimension, the Gauss-Newton split of the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from acutance.measure import Cost, Estimate, Traits
from acutance.spec import estimation, labelled
from acutance_hessian.spec import CurvatureMeasure, LevelSpec, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class FrobeniusSpec(ProductSpec):
    """Settings of the Frobenius norm of the Hessian."""

    probes: Annotated[PositiveInt, estimation()] = 100
    """Products with the Hessian for each batch, at most."""
    rtol: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Relative standard error at which to stop; 0: use all probes."""


class HessianFrobenius(CurvatureMeasure[FrobeniusSpec]):
    r"""Squared Frobenius norm of the rescaled Hessian.

    .. math:: \|H_c\|_F^2 = \sum_i \lambda_i(H_c)^2 = E_z \|H_c z\|^2, \qquad H_c = \nabla^2 L_S(w) \odot cc^\top

    with random signs z: the products that ``hessian_trace`` makes with Hutchinson's estimator serve it too. The square
    is what is unbiased; its root is ``extras["norm"]``.
    """

    name = "hessian_frobenius"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"hvp"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="||H||_F^2",
        label="{scaling} Hessian Frobenius norm",
        reference="Bisla, Wang & Choromanska 2022; Hutchinson 1990",
        bibtex=("bisla2022lowpass", "hutchinson1990stochastic"),
    )

    def evaluate(self, surface: LossSurface, spec: FrobeniusSpec, rng: Streams) -> Estimate | float:
        """Return the mean squared length of the products."""
        from acutance_hessian.estimate import frobenius

        return frobenius(surface, spec, rng)

    def passes(self, spec: FrobeniusSpec) -> Cost:
        """One product a probe, at most, through one graph of the gradient."""
        return spec.products(spec.probes)

    def vectors(self, spec: FrobeniusSpec) -> int:
        """The probe, the product and its parts; c, and the probe times it."""
        return 1 + spec.product_vectors()


class EffectiveDimensionSpec(ProductSpec):
    """Settings of the effective dimension."""

    z: PositiveFloat = 1.0
    """Curvature from which a direction counts: half of it where the eigenvalue is z."""
    probes: Annotated[PositiveInt, estimation()] = 4
    """Random start vectors."""
    iterations: Annotated[PositiveInt, estimation()] = 80
    """Lanczos iterations, one product with the Hessian and one kept vector each, from each start."""
    rtol: Annotated[NonNegativeFloat, estimation()] = 0.05
    """Relative difference to the value with half of the iterations at which it counts as converged."""


class HessianEffectiveDimension(CurvatureMeasure[EffectiveDimensionSpec]):
    r"""Effective dimension, or soft rank, of the rescaled Hessian.

    .. math:: \sum_i \frac{\lambda_i}{\lambda_i + z} \quad \text{over } \lambda_i(H_c) > 0

    (MacKay 1992; Maddox, Benton & Wilson 2020), by the Lanczos quadrature of ``hessian_density``, whose runs it shares:
    :math:`\frac{p}{q} \sum_k \sum_j s_{kj}^2\, f(\theta_{kj})`. Negative eigenvalues are left out: the formula has a
    pole there; their share is ``extras["negative_mass"]``, which lies between ``["negative_low"]`` and
    ``["negative_high"]`` (see ``hessian_density``). ``stderr`` is that over the probes; ``extras["value_half"]`` is the
    value with half of the iterations, and the value is ``not_converged`` where they differ by more than ``rtol``.
    """

    name = "hessian_effective_dimension"
    traits = Traits(
        level="batch",
        larger_means="more directions that matter",
        needs={"hvp"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="d_eff",
        label="{scaling} effective dimension",
        reference="MacKay 1992; Maddox, Benton & Wilson 2020",
        bibtex=("mackay1992bayesian", "maddox2020rethinking"),
    )

    def evaluate(self, surface: LossSurface, spec: EffectiveDimensionSpec, rng: Streams) -> Estimate | float:
        """Return the effective dimension."""
        from acutance_hessian.estimate import effective_dimension

        return effective_dimension(surface, spec, rng)

    def passes(self, spec: EffectiveDimensionSpec) -> Cost:
        """One product an iteration from each start, through one graph of the gradient."""
        return spec.products(spec.probes * spec.iterations)

    def vectors(self, spec: EffectiveDimensionSpec) -> int:
        """One for each iteration, the product and its parts; c, and the vector times it."""
        return spec.iterations + spec.product_vectors()


class GaussNewtonSpec(LevelSpec):
    """Settings of the Gauss-Newton split of the trace."""

    part: Annotated[Literal["ggn", "remainder"], labelled(adds=", remainder")] = "ggn"
    """ggn: the generalized Gauss-Newton matrix G; remainder: H - G, what the curvature of the network itself adds."""
    probes: Annotated[PositiveInt, estimation()] = 100
    """Products with each matrix for each batch, at most."""
    rtol: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Relative standard error at which to stop; 0: use all probes."""


class GaussNewtonTrace(CurvatureMeasure[GaussNewtonSpec]):
    r"""Trace of the Gauss-Newton part of the rescaled Hessian, or of the remainder.

    .. math:: H = \underbrace{\tfrac1n \sum_i J_i^\top (\nabla_f^2 \ell_i) J_i}_{G} +
       \underbrace{\tfrac1n \sum_i \sum_k \frac{\partial \ell_i}{\partial f_k} \nabla_w^2 f_k}_{H - G}

    (Schraudolph 2002; Dauphin, Agarwala & Mobahi 2024), both rescaled by :math:`cc^\top`. G is positive semi-definite
    for cross-entropy and squared error; the remainder carries the negative curvature and vanishes where the residuals
    do. By Hutchinson's estimator; both parts see the same random signs, so their sum is that of ``hessian_trace``.
    """

    name = "gauss_newton_trace"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"hvp"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="tr G",
        label="{scaling} Gauss-Newton trace",
        reference="Schraudolph 2002; Dauphin, Agarwala & Mobahi 2024",
        bibtex=("schraudolph2002fast", "dauphin2024neglected"),
    )

    def evaluate(self, surface: LossSurface, spec: GaussNewtonSpec, rng: Streams) -> Estimate | float:
        """Return the estimated trace of the part."""
        from acutance_hessian.estimate import gauss_newton

        return gauss_newton(surface, spec, rng)

    def passes(self, spec: GaussNewtonSpec) -> Cost:
        """Two backwards a probe through one linearization; for the remainder a product with the Hessian more."""
        split = spec.part == "remainder"
        return Cost(forwards=1 + split, backwards=1 + split + 2 * spec.probes, hvps=spec.probes * split)

    def vectors(self, spec: GaussNewtonSpec) -> int:
        """The probe, the products and their parts; c, and the probe times it."""
        return 4 + 2 * (spec.scaling != "none")
