"""The trace of the rescaled Hessian."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from acutance.measure import Cost, Estimate, Need
from acutance.spec import estimation
from acutance_hessian.spec import CHECK_PAIRS, SPECTRUM, CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class TraceSpec(ProductSpec):
    """Settings of the trace of the Hessian."""

    estimator: Annotated[Literal["hutchinson", "hutch++", "xtrace"], estimation()] = "hutchinson"
    """hutchinson: the mean of z^T H z; hutch++, xtrace: exact on what a third or half of the probes span."""
    probes: Annotated[PositiveInt, estimation()] = 100
    """Products with the Hessian for each batch, at most, whatever the estimator."""
    rtol: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Relative standard error at which to stop; 0: use all probes."""

    check_rho: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Radius at which Proposition 2 is held against the measured sharpness, in the extras; 0: not checked."""

    @model_validator(mode="after")
    def _enough(self) -> TraceSpec:
        least = {"hutchinson": 1, "hutch++": 3, "xtrace": 4}[self.estimator]
        if self.probes < least:
            raise ValueError(f"probes: {self.estimator} needs at least {least}, got {self.probes}")
        return self


class HessianTrace(CurvatureMeasure[TraceSpec]):
    r"""Trace of the rescaled Hessian.

    .. math:: tr(H_c) = \sum_i c_i^2\, \partial^2 L_S / \partial w_i^2, \qquad H_c = \nabla^2 L_S(w) \odot cc^\top

    the limit of average-case sharpness times :math:`2 / \rho^2` for a small radius (Andriushchenko et al. 2023,
    Eq. 2 and Proposition 2). It is linear in the loss: the mean over m-batches is the trace of the mean Hessian.

    Estimated from products with random signs. ``hutchinson`` holds 3 vectors besides c and its standard error is that
    of a mean of independent numbers. ``hutch++`` and ``xtrace`` are better where few eigenvalues make up most of
    the trace, and hold a third or half as many vectors as there are probes. The standard error of ``hutch++`` is that
    of the last third of its probes, which are split from the others; that of ``xtrace`` accounts for what its
    estimates have in common.
    """

    name = "hessian_trace"
    traits = replace(
        SPECTRUM,
        symbol="tr H",
        label="{scaling} Hessian trace",
        reference="Andriushchenko et al. 2023, Eq. 2; Hutchinson 1990; Meyer et al. 2021; Epperly et al. 2024",
        bibtex=(
            "andriushchenko2023modern", "hutchinson1990stochastic", "meyer2021hutch", "epperly2024xtrace",
        ),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: TraceSpec, rng: Streams) -> Estimate:
        """Return the estimated trace."""
        # Torch is imported by what evaluates, here and in the other measures: tables, lists and checks read the class.
        from acutance.numerics.traces import TraceEstimate, adaptive_mean, close_enough, hutch_plus_plus, xtrace
        from acutance_hessian import propositions
        from acutance_hessian.operators import Curvature, evaluated, with_tolerance, zero_hessian

        def trace(curvature: Curvature) -> TraceEstimate:
            """Estimate by the spec's estimator; the products of Hutchinson are shared between measures."""
            if spec.estimator != "hutchinson":
                estimator = {"hutch++": hutch_plus_plus, "xtrace": xtrace}[spec.estimator]
                return estimator(curvature.hessian, curvature.signs, spec.probes, spec.rtol, curvature.products)
            value, stderr, n = adaptive_mean(lambda n: [form for form, _ in curvature.forms(n)], spec.probes, spec.rtol)
            still = all(square == 0 for _, square in curvature.forms(n))
            return TraceEstimate(value, stderr, n, close_enough(value, stderr, spec.rtol), still)

        def estimate(curvature: Curvature) -> Estimate:
            trace_estimate = trace(curvature)
            if trace_estimate.exactly_zero:
                return zero_hessian()
            extras: dict[str, Any] = {"products": trace_estimate.products}
            if spec.check_rho:
                extras |= propositions.average_case(curvature, trace_estimate.value, spec.check_rho)
            return with_tolerance(
                trace_estimate.value, trace_estimate.stderr, trace_estimate.converged, extras, spec.rtol
            )

        return evaluated(surface, spec, rng, estimate)

    def needs(self, spec: TraceSpec) -> frozenset[Need]:
        """Losses at other points too, where Proposition 2 is checked."""
        return super().needs(spec) | ({"data"} if spec.check_rho else set())

    def passes(self, spec: TraceSpec) -> Cost:
        """One product a probe, at most, through one graph of the gradient."""
        products = spec.probes - spec.probes % 2 if spec.estimator == "xtrace" else spec.probes
        check = 4 * CHECK_PAIRS + 1 if spec.check_rho else 0
        return spec.products(products) + Cost(forwards=check)

    def vectors(self, spec: TraceSpec) -> int:
        """The probe, the product and its parts; c, and the probe times it; those that Hutch++ and XTrace keep."""
        stored = {"hutchinson": 1, "hutch++": 1 + spec.probes // 3, "xtrace": spec.probes // 2}[spec.estimator]
        return stored + spec.product_vectors()
