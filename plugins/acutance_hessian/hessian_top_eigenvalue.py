"""The largest eigenvalue of the rescaled Hessian."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from acutance.measure import Cost, Estimate, Need, Status
from acutance.spec import estimation
from acutance_hessian.spec import CHECK_STEPS, SPECTRUM, CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class TopEigenvalueSpec(ProductSpec):
    """Settings of the largest eigenvalue of the Hessian."""

    tol: Annotated[PositiveFloat, estimation()] = 1e-4
    """Relative tolerance: the run stops where its residual bound is below it."""
    max_iterations: Annotated[PositiveInt, estimation()] = 100
    """Lanczos iterations, one product with the Hessian and one kept vector each, at most."""
    k: PositiveInt = 1
    """How many of the largest eigenvalues to find; the value is the first, all are in the extras (eigenvalue_1 ...)."""

    check_rho: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Radius at which Proposition 1 is held against the measured sharpness, in the extras; 0: not checked."""

    @model_validator(mode="after")
    def _enough(self) -> TopEigenvalueSpec:
        if self.max_iterations < self.k:
            raise ValueError(f"max_iterations: {self.k} eigenvalues need as many iterations, got {self.max_iterations}")
        return self


class HessianTopEigenvalue(CurvatureMeasure[TopEigenvalueSpec]):
    r"""Largest eigenvalue of the rescaled Hessian, algebraically.

    .. math:: \lambda_{max}(H_c), \qquad H_c = \nabla^2 L_S(w) \odot cc^\top

    the limit of worst-case sharpness times :math:`2 / \rho^2` at a critical point, in the l2 ball (Andriushchenko et
    al. 2023, Eq. 3 and Proposition 1), where it is clipped at 0. A large negative eigenvalue is not mistaken for it.

    By Lanczos with full reorthogonalisation. It stops when
    :math:`4 \min(r, r^2 / \mathrm{gap}) \le tol\,|\lambda|`, with r the residual of the Ritz pair and the gap that to
    its neighbour; this bound is ``extras["bound"]``. The value is the mean of :math:`\lambda_{max}` over the m-batches,
    which is at least, and as a rule well above, :math:`\lambda_{max}` of the mean Hessian; ``level: dataset`` gives
    that one.
    """

    name = "hessian_top_eigenvalue"
    traits = replace(
        SPECTRUM,
        symbol="lambda_max",
        label="{scaling} Hessian λmax",
        edge={"scaling": "none", "logit_norm": False},
        reference="Andriushchenko et al. 2023, Eq. 3; Lanczos 1950",
        bibtex=("andriushchenko2023modern", "lanczos1950iteration"),
    )

    def evaluate(self, surface: LossSurface, spec: TopEigenvalueSpec, rng: Streams) -> Estimate:
        """Return the largest eigenvalue, with its bound."""
        from acutance.numerics.lanczos import largest_eigenvalues
        from acutance_hessian import propositions
        from acutance_hessian.operators import Curvature, evaluated, zero_hessian

        def estimate(curvature: Curvature) -> Estimate:
            run = curvature.run(0, spec.max_iterations)
            largest = largest_eigenvalues(curvature.hessian, run, spec.tol, spec.max_iterations, spec.k)
            curvature.release_run(0)
            if largest.ritz.norm == 0:
                return zero_hessian()
            value, bound = largest.values[0], largest.bounds[0]
            extras: dict[str, Any] = {
                "bound": bound,
                "iterations": largest.products,
                "smallest_seen": float(largest.ritz.values[-1]),
                "eigenvalues": largest.values,
                "bounds": largest.bounds,
            }
            if spec.k > 1:  # numbers, which batches average
                extras |= {f"eigenvalue_{i}": largest.values[i - 1] for i in range(1, len(largest.values) + 1)}
            if spec.check_rho:
                extras |= propositions.worst_case(curvature, value, spec.check_rho)
            if largest.converged:
                return Estimate(value, extras=extras)
            worst = max(largest.bounds)
            message = (
                f"after {largest.products} iterations the largest bound is {worst:.3g}, more than {spec.tol:g} of the "
                "eigenvalue: raise max_iterations or tol"
            )
            return Estimate(value, status=Status.NOT_CONVERGED, message=message, extras=extras)

        return evaluated(surface, spec, rng, estimate)

    def needs(self, spec: TopEigenvalueSpec) -> frozenset[Need]:
        """Gradients too, where Proposition 1 is checked."""
        return super().needs(spec) | ({"gradient"} if spec.check_rho else set())

    def passes(self, spec: TopEigenvalueSpec) -> Cost:
        """One product an iteration, at most, through one graph of the gradient."""
        check = 2 * CHECK_STEPS + 1 if spec.check_rho else 0
        return spec.products(spec.max_iterations) + Cost(forwards=check + 2 * bool(check), backwards=check)

    def vectors(self, spec: TopEigenvalueSpec) -> int:
        """One for each iteration, the product and its parts; the vector times c, and c unless it is |w|."""
        return spec.max_iterations + spec.product_vectors()
