"""The Frobenius norm of the rescaled Hessian."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import NonNegativeFloat, PositiveInt

from acutance.measure import Cost, Estimate
from acutance.spec import estimation
from acutance_hessian.spec import SPECTRUM, CurvatureMeasure, ProductSpec

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
    traits = replace(
        SPECTRUM,
        symbol="||H||_F^2",
        label="{scaling} Hessian Frobenius norm",
        reference="Bisla, Wang & Choromanska 2022; Hutchinson 1990",
        bibtex=("bisla2022lowpass", "hutchinson1990stochastic"),
    )

    def evaluate(self, surface: LossSurface, spec: FrobeniusSpec, rng: Streams) -> Estimate:
        """Return the mean squared length of the products."""
        from acutance.numerics.traces import adaptive_mean, close_enough
        from acutance_hessian.operators import Curvature, evaluated, with_tolerance, zero_hessian

        def estimate(curvature: Curvature) -> Estimate:
            value, stderr, n = adaptive_mean(
                lambda n: [square for _, square in curvature.forms(n)], spec.probes, spec.rtol
            )
            if value == 0:
                return zero_hessian()
            extras = {"norm": math.sqrt(value), "products": n}
            return with_tolerance(value, stderr, close_enough(value, stderr, spec.rtol), extras, spec.rtol)

        return evaluated(surface, spec, rng, estimate)

    def passes(self, spec: FrobeniusSpec) -> Cost:
        """One product a probe, at most, through one graph of the gradient."""
        return spec.products(spec.probes)

    def vectors(self, spec: FrobeniusSpec) -> int:
        """The probe, the product and its parts; c, and the probe times it."""
        return 1 + spec.product_vectors()
