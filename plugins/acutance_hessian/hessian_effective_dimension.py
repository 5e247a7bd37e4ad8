"""The effective dimension of the rescaled Hessian."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from acutance.measure import Cost, Estimate, Status
from acutance.spec import estimation
from acutance_hessian.spec import SPECTRUM, CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


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
    traits = replace(
        SPECTRUM,
        larger_means="more directions that matter",
        symbol="d_eff",
        label="{scaling} effective dimension",
        reference="MacKay 1992; Maddox, Benton & Wilson 2020",
        bibtex=("mackay1992bayesian", "maddox2020rethinking"),
    )

    def evaluate(self, surface: LossSurface, spec: EffectiveDimensionSpec, rng: Streams) -> Estimate:
        """Return the effective dimension."""
        from acutance.numerics.lanczos import Ritz
        from acutance.numerics.traces import mean_and_error
        from acutance_hessian.operators import Curvature, evaluated, zero_hessian
        from acutance_hessian.quadratures import negative_mass, quadratures

        def estimate(curvature: Curvature) -> Estimate:
            spectrum = quadratures(curvature, spec.probes, spec.iterations)
            if spectrum.norm == 0:
                return zero_hessian()

            def dimension(ritz: Ritz) -> float:
                positive = ritz.values.clamp_min(0)
                return curvature.p * float((ritz.weights * positive / (positive + spec.z)).sum())

            value, stderr = mean_and_error([dimension(ritz) for ritz in spectrum.ritz])
            halved, _ = mean_and_error([dimension(ritz) for ritz in spectrum.halved])
            low, high = spectrum.negative_bounds()
            mass = math.fsum(negative_mass(ritz, spectrum.norm) for ritz in spectrum.ritz) / len(spectrum.ritz)
            extras = {"value_half": halved, "negative_mass": mass, "negative_low": low, "negative_high": high}
            if abs(value - halved) <= spec.rtol * value:
                return Estimate(value, stderr, extras=extras)
            message = (
                f"with half of the iterations the value is {halved:.3g}, not within {spec.rtol:g} of {value:.3g}: "
                "raise iterations or rtol"
            )
            return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)

        return evaluated(surface, spec, rng, estimate)

    def passes(self, spec: EffectiveDimensionSpec) -> Cost:
        """One product an iteration from each start, through one graph of the gradient."""
        return spec.products(spec.probes * spec.iterations)

    def vectors(self, spec: EffectiveDimensionSpec) -> int:
        """One for each iteration, the product and its parts; c, and the vector times it."""
        return spec.iterations + spec.product_vectors()
