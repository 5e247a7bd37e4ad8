"""The spectral density of the rescaled Hessian."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import NonNegativeFloat, PositiveInt

from acutance.measure import Cost, Estimate, Status
from acutance.spec import estimation
from acutance_hessian.spec import SPECTRUM, CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class DensitySpec(ProductSpec):
    """Settings of the spectral density of the Hessian."""

    probes: Annotated[PositiveInt, estimation()] = 4
    """Random start vectors."""
    iterations: Annotated[PositiveInt, estimation()] = 400
    """Lanczos iterations, one product with the Hessian and one kept vector each, from each start."""
    tol: Annotated[NonNegativeFloat, estimation()] = 0.05
    """Half the distance of the bounds of the share at which it counts as resolved."""


class HessianDensity(CurvatureMeasure[DensitySpec]):
    r"""Spectral density of the rescaled Hessian; the value is the share of its eigenvalues that are negative.

    .. math:: \frac1p \sum_i \delta(\lambda - \lambda_i(H_c)) \approx
       \frac1q \sum_{k=1}^q \sum_j s_{kj}^2\, \delta(\lambda - \theta_{kj})

    by stochastic Lanczos quadrature (Ghorbani et al. 2019): :math:`\theta_{kj}` are the Ritz values of a run from
    random start k, :math:`s_{kj}` the first components of their vectors. The curve is in ``extras["density"]``: the
    mass ``y`` in bins around ``x``, ten a decade on both sides of zero, the same for all models and batches. An
    eigenvalue counts as negative below :math:`-10^{-5} \max|\lambda|`, which is what single precision can tell from
    zero. ``stderr`` is that over the probes. Where a run has fewer iterations than there are different eigenvalues,
    a node stands for a cluster of them: the density near zero is then smoothed, and so is its sign. How much so is
    told: ``extras["low"]`` and ``["high"]`` are the least and the greatest share below that cut that the runs allow
    (Chebyshev, Markov and Stieltjes; Golub & Meurant 2010), ``["value_half"]`` is the value with half of the
    iterations, ``["resolution"]`` the distance of the nodes around zero, in units of :math:`\max|\lambda|`. Where low
    and high are more than two ``tol`` apart the share is not resolved, and the value is ``not_converged``. The default
    iterations resolve networks of a thousand parameters; of much larger ones the bulk's sign cannot be told.
    """

    name, version = "hessian_density", 2
    traits = replace(
        SPECTRUM,
        larger_means="more negative curvature",
        symbol="negative mass",
        label="{scaling} Hessian negative share",
        curves={"density": ("eigenvalue", "share of eigenvalues in the bin")},
        reference="Ghorbani, Krishnan & Xiao 2019; Golub & Welsch 1969",
        bibtex=("ghorbani2019investigation",),
    )

    def evaluate(self, surface: LossSurface, spec: DensitySpec, rng: Streams) -> Estimate:
        """Return the share of negative eigenvalues, with its bounds, and the density in the extras."""
        from acutance.numerics.traces import mean_and_error
        from acutance_hessian.operators import Curvature, evaluated, zero_hessian
        from acutance_hessian.quadratures import NEGATIVE, binned, gap, negative_mass, quadratures

        def estimate(curvature: Curvature) -> Estimate:
            spectrum = quadratures(curvature, spec.probes, spec.iterations)
            norm = spectrum.norm
            if norm == 0:
                return zero_hessian()
            value, stderr = mean_and_error([negative_mass(ritz, norm) for ritz in spectrum.ritz])
            halved, _ = mean_and_error([negative_mass(ritz, norm) for ritz in spectrum.halved])
            low, high = spectrum.negative_bounds()
            extras = {
                "low": low,
                "high": high,
                "value_half": halved,
                "resolution": math.fsum(gap(ritz, -NEGATIVE * norm) for ritz in spectrum.ritz)
                / len(spectrum.ritz)
                / norm,
                "largest_seen": max(float(ritz.values[0]) for ritz in spectrum.ritz),
                "smallest_seen": min(float(ritz.values[-1]) for ritz in spectrum.ritz),
                "density": binned(spectrum.ritz),
            }
            if high - low <= 2 * spec.tol:
                return Estimate(value, stderr, extras=extras)
            message = (
                f"{spec.iterations} iterations tell that the share is between {low:.3g} and {high:.3g}, no more (with "
                f"half of them the value is {halved:.3g}, not {value:.3g}): raise iterations or tol"
            )
            return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)

        return evaluated(surface, spec, rng, estimate)

    def passes(self, spec: DensitySpec) -> Cost:
        """One product an iteration from each start, through one graph of the gradient."""
        return spec.products(spec.probes * spec.iterations)

    def vectors(self, spec: DensitySpec) -> int:
        """One for each iteration, the product and its parts; c, and the vector times it."""
        return spec.iterations + spec.product_vectors()
