"""From the operator to estimates: trace, largest eigenvalue, density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.measure import Estimate, Status
from acutance.numerics.draws import Streams
from acutance.numerics.lanczos import Lanczos, Ritz, largest_eigenvalues
from acutance.numerics.traces import (
    TraceEstimate,
    adaptive_mean,
    close_enough,
    hutch_plus_plus,
    mean_and_error,
    xtrace,
)
from acutance_hessian import propositions
from acutance_hessian.operators import Curvature, guarded, nothing

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_hessian.functions import EffectiveDimensionSpec, FrobeniusSpec, GaussNewtonSpec
    from acutance_hessian.measures import DensitySpec, TopEigenvalueSpec, TraceSpec

NEGATIVE = 1e-5  # of the largest magnitude: nearer to zero, single precision cannot tell the sign
DECADES, PER_DECADE = range(-8, 7), 10  # of the density's bins


@torch.no_grad()
def trace(surface: LossSurface, spec: TraceSpec, rng: Streams) -> Estimate:
    """Return the trace of H_c."""
    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        found = estimated_trace(curvature, spec)
        if found.exactly_zero:
            return nothing()
        extras: dict[str, Any] = {"products": found.products}
        if spec.check_rho:
            extras |= propositions.average_case(curvature, found.value, spec.check_rho)
        return with_tolerance(found.value, found.stderr, found.converged, extras, spec.rtol, "raise probes")

    return curvature.told(guarded(evaluate))


def estimated_trace(curvature: Curvature, spec: TraceSpec) -> TraceEstimate:
    """Return the estimate by the spec's estimator; the products of Hutchinson are shared between measures."""
    if spec.estimator != "hutchinson":
        estimator = {"hutch++": hutch_plus_plus, "xtrace": xtrace}[spec.estimator]
        return estimator(curvature.hessian, curvature.signs, spec.probes, spec.rtol, curvature.products)
    value, stderr, n = adaptive_mean(lambda n: [form for form, _ in curvature.forms(n)], spec.probes, spec.rtol)
    zero = all(square == 0 for _, square in curvature.forms(n))
    return TraceEstimate(value, stderr, n, close_enough(value, stderr, spec.rtol), zero)


def with_tolerance(
    value: float, stderr: float | None, converged: bool, extras: Mapping[str, Any], rtol: float, advice: str
) -> Estimate:
    """Return an estimate that says whether its standard error is as small as was asked for."""
    if converged:
        return Estimate(value, stderr, extras=extras)
    reached = "unknown" if stderr is None else f"{stderr / abs(value):.2g}" if value else "infinite"
    message = f"the relative standard error is {reached}, not {rtol:g}: {advice}"
    return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)


@torch.no_grad()
def top_eigenvalue(surface: LossSurface, spec: TopEigenvalueSpec, rng: Streams) -> Estimate:
    """Return the algebraically largest eigenvalue of H_c."""
    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        run = curvature.run(0, spec.max_iterations)
        found = largest_eigenvalues(curvature.hessian, run, spec.tol, spec.max_iterations, spec.k)
        curvature.settle(0)
        if found.ritz.norm == 0:
            return nothing()
        value, bound = found.values[0], found.bounds[0]
        extras: dict[str, Any] = {
            "bound": bound,
            "iterations": found.products,
            "smallest_seen": float(found.ritz.values[-1]),
            "eigenvalues": found.values,
            "bounds": found.bounds,
        }
        if spec.k > 1:  # numbers, which batches average
            extras |= {f"eigenvalue_{i}": found.values[i - 1] for i in range(1, len(found.values) + 1)}
        if spec.check_rho:
            extras |= propositions.worst_case(curvature, value, spec.check_rho)
        if found.converged:
            return Estimate(value, extras=extras)
        worst = max(found.bounds)
        message = (
            f"after {found.products} iterations the largest bound is {worst:.3g}, more than {spec.tol:g} of the "
            "eigenvalue: raise max_iterations or tol"
        )
        return Estimate(value, status=Status.NOT_CONVERGED, message=message, extras=extras)

    return curvature.told(guarded(evaluate))


@torch.no_grad()
def frobenius(surface: LossSurface, spec: FrobeniusSpec, rng: Streams) -> Estimate:
    """Return the squared Frobenius norm of H_c."""
    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        value, stderr, n = adaptive_mean(lambda n: [square for _, square in curvature.forms(n)], spec.probes, spec.rtol)
        if value == 0:
            return nothing()
        extras = {"norm": math.sqrt(value), "products": n}
        return with_tolerance(value, stderr, close_enough(value, stderr, spec.rtol), extras, spec.rtol, "raise probes")

    return curvature.told(guarded(evaluate))


@torch.no_grad()
def gauss_newton(surface: LossSurface, spec: GaussNewtonSpec, rng: Streams) -> Estimate:
    """Return the trace of G_c, or of H_c - G_c."""
    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        split = spec.part == "remainder"

        def samples(n: int) -> list[float]:
            parts = [form for form, _ in curvature.gauss_newton_forms(n)]
            if not split:
                return parts
            return [whole - part for (whole, _), part in zip(curvature.forms(n), parts, strict=True)]

        value, stderr, n = adaptive_mean(samples, spec.probes, spec.rtol)
        if all(square == 0 for _, square in curvature.gauss_newton_forms(n)):
            return nothing()
        extras: dict[str, Any] = {"products": n}
        if split:
            extras["hessian"] = math.fsum(form for form, _ in curvature.forms(n)) / n
        return with_tolerance(value, stderr, close_enough(value, stderr, spec.rtol), extras, spec.rtol, "raise probes")

    return curvature.told(guarded(evaluate))


@torch.no_grad()
def effective_dimension(surface: LossSurface, spec: EffectiveDimensionSpec, rng: Streams) -> Estimate:
    """Return the effective dimension of H_c."""
    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        found = quadratures(curvature, spec.probes, spec.iterations)
        if found.norm == 0:
            return nothing()

        def dimension(ritz: Ritz) -> float:
            positive = ritz.values.clamp_min(0)
            return curvature.p * float((ritz.weights * positive / (positive + spec.z)).sum())

        value, stderr = mean_and_error([dimension(ritz) for ritz in found.ritz])
        halved, _ = mean_and_error([dimension(ritz) for ritz in found.halved])
        low, high = found.negative_bounds()
        mass = math.fsum(negative_mass(ritz, found.norm) for ritz in found.ritz) / len(found.ritz)
        extras = {"value_half": halved, "negative_mass": mass, "negative_low": low, "negative_high": high}
        if abs(value - halved) <= spec.rtol * value:
            return Estimate(value, stderr, extras=extras)
        message = (
            f"with half of the iterations the value is {halved:.3g}, not within {spec.rtol:g} of {value:.3g}: "
            "raise iterations or rtol"
        )
        return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)

    return curvature.told(guarded(evaluate))


def negative_mass(ritz: Ritz, norm: float) -> float:
    """Return the share of eigenvalues that are negative, beyond what rounding makes of zero."""
    return float(ritz.weights[ritz.values < -NEGATIVE * norm].sum())


@torch.no_grad()
def density(surface: LossSurface, spec: DensitySpec, rng: Streams) -> Estimate:
    """Return the share of negative eigenvalues of H_c, with its bounds and the density."""
    curvature = Curvature(surface, spec, rng)

    def evaluate() -> Estimate:
        found = quadratures(curvature, spec.probes, spec.iterations)
        norm = found.norm
        if norm == 0:
            return nothing()
        value, stderr = mean_and_error([negative_mass(ritz, norm) for ritz in found.ritz])
        halved, _ = mean_and_error([negative_mass(ritz, norm) for ritz in found.halved])
        low, high = found.negative_bounds()
        extras = {
            "low": low,
            "high": high,
            "value_half": halved,
            "resolution": math.fsum(gap(ritz, -NEGATIVE * norm) for ritz in found.ritz) / len(found.ritz) / norm,
            "largest_seen": max(float(ritz.values[0]) for ritz in found.ritz),
            "smallest_seen": min(float(ritz.values[-1]) for ritz in found.ritz),
            "density": curve(found.ritz),
        }
        if high - low <= 2 * spec.tol:
            return Estimate(value, stderr, extras=extras)
        message = (
            f"{spec.iterations} iterations tell that the share is between {low:.3g} and {high:.3g}, no more (with half "
            f"of them the value is {halved:.3g}, not {value:.3g}): raise iterations or tol"
        )
        return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)

    return curvature.told(guarded(evaluate))


def gap(ritz: Ritz, x: float) -> float:
    """Return how far apart the nodes on the two sides of x are; with none on one side, from x to the nearest."""
    above, below = ritz.values[ritz.values >= x], ritz.values[ritz.values < x]
    return (float(above.min()) if len(above) else x) - (float(below.max()) if len(below) else x)


@dataclass(frozen=True)
class Quadratures:
    """What the runs from all probes say.

    Attributes:
        runs: the runs, with how many of their products count.
        ritz: nodes and weights of each.
        halved: the same after half of the products.
    """

    runs: list[tuple[Lanczos, int]]
    ritz: list[Ritz]
    halved: list[Ritz]

    @property
    def norm(self) -> float:
        """The largest magnitude that any run saw."""
        return max(ritz.norm for ritz in self.ritz)

    def negative_bounds(self) -> tuple[float, float]:
        """Return the least and the greatest share of negative eigenvalues that the runs allow, as means over them."""
        bounds = [run.mass_below(-NEGATIVE * self.norm, made) for run, made in self.runs]
        low, high = (math.fsum(column) / len(bounds) for column in zip(*bounds, strict=True))
        return low, high


def quadratures(curvature: Curvature, probes: int, iterations: int) -> Quadratures:
    """Return the nodes and weights of each probe's run."""
    runs = []
    for k in reversed(range(probes)):  # the first run comes last: its vectors may stay for other measures
        run = curvature.run(k, iterations)
        made = run.extend(curvature.hessian, iterations)
        curvature.settle(k)
        runs.append((run, made))
    runs.reverse()
    ritz = [run.ritz(made) for run, made in runs]
    return Quadratures(runs, ritz, [run.ritz((made + 1) // 2) for run, made in runs])


def edges() -> Tensor:
    """Return the positive edges of the density's bins, in increasing order."""
    exponents = torch.arange(DECADES[0] * PER_DECADE, DECADES[-1] * PER_DECADE + 1, dtype=torch.float64)
    return 10 ** (exponents / PER_DECADE)


def curve(found: list[Ritz]) -> dict[str, list[float]]:
    """Return {"x": middles of the bins, "y": share of the eigenvalues in each}, from negative to positive.

    The bin around zero is the middle one; what lies beyond the last edges is in the last bins.
    """
    positive = edges()
    cuts = torch.cat([-positive.flip(0), positive])
    mass = torch.zeros(len(cuts) + 1, dtype=torch.float64)
    for ritz in found:
        mass.index_add_(0, torch.bucketize(ritz.values, cuts), ritz.weights)
    mass = mass / len(found)
    mass[1] += mass[0]
    mass[-2] += mass[-1]
    middles = (positive[1:] * positive[:-1]).sqrt()
    x = torch.cat([-middles.flip(0), torch.zeros(1, dtype=torch.float64), middles])
    return {"x": x.tolist(), "y": mass[1:-1].tolist()}
