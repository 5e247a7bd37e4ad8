"""The Gauss-Newton part of the trace of the rescaled Hessian, and the remainder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from acutance.measure import Cost, Estimate
from acutance.spec import estimation, labelled
from acutance_hessian.spec import SPECTRUM, CurvatureMeasure, LevelSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


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
    traits = replace(
        SPECTRUM,
        symbol="tr G",
        label="{scaling} Gauss-Newton trace",
        reference="Schraudolph 2002; Dauphin, Agarwala & Mobahi 2024",
        bibtex=("schraudolph2002fast", "dauphin2024neglected"),
    )

    def evaluate(self, surface: LossSurface, spec: GaussNewtonSpec, rng: Streams) -> Estimate:
        """Return the estimated trace of the part."""
        from acutance.numerics.traces import adaptive_mean, close_enough
        from acutance_hessian.operators import Curvature, evaluated, with_tolerance, zero_hessian

        def estimate(curvature: Curvature) -> Estimate:
            split = spec.part == "remainder"

            def samples(n: int) -> list[float]:
                parts = [form for form, _ in curvature.gauss_newton_forms(n)]
                if not split:
                    return parts
                return [whole - part for (whole, _), part in zip(curvature.forms(n), parts, strict=True)]

            value, stderr, n = adaptive_mean(samples, spec.probes, spec.rtol)
            if all(square == 0 for _, square in curvature.gauss_newton_forms(n)):
                return zero_hessian()
            extras: dict[str, Any] = {"products": n}
            if split:
                extras["hessian"] = math.fsum(form for form, _ in curvature.forms(n)) / n
            return with_tolerance(value, stderr, close_enough(value, stderr, spec.rtol), extras, spec.rtol)

        return evaluated(surface, spec, rng, estimate)

    def passes(self, spec: GaussNewtonSpec) -> Cost:
        """Two backwards a probe through one linearization; for the remainder a product with the Hessian more."""
        split = spec.part == "remainder"
        return Cost(forwards=1 + split, backwards=1 + split + 2 * spec.probes, hvps=spec.probes * split)

    def vectors(self, spec: GaussNewtonSpec) -> int:
        """The probe, the products and their parts; c unless it is |w|, and the probe times it."""
        return 4 + (spec.scaling != "none") + (spec.scaling not in ("none", "elementwise"))
