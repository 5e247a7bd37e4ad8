"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the measures."""
    return {
        "hessian_trace": "acutance_hessian.hessian_trace:HessianTrace",
        "hessian_top_eigenvalue": "acutance_hessian.hessian_top_eigenvalue:HessianTopEigenvalue",
        "hessian_density": "acutance_hessian.hessian_density:HessianDensity",
        "gradient_norm": "acutance_hessian.gradient_norm:GradientNorm",
        "directional_sharpness": "acutance_hessian.directional_sharpness:DirectionalSharpness",
        "hessian_frobenius": "acutance_hessian.hessian_frobenius:HessianFrobenius",
        "hessian_effective_dimension": "acutance_hessian.hessian_effective_dimension:HessianEffectiveDimension",
        "gauss_newton_trace": "acutance_hessian.gauss_newton_trace:GaussNewtonTrace",
    }


@hookimpl
def register_figures() -> dict[str, str]:
    """Return the recipes of figures."""
    return {"density": "acutance_hessian.figures:Density"}
