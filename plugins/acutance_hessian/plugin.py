"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the measures."""
    return {
        "hessian_trace": "acutance_hessian.measures:HessianTrace",
        "hessian_top_eigenvalue": "acutance_hessian.measures:HessianTopEigenvalue",
        "hessian_density": "acutance_hessian.measures:HessianDensity",
        "gradient_norm": "acutance_hessian.local:GradientNorm",
        "directional_sharpness": "acutance_hessian.local:DirectionalSharpness",
        "hessian_frobenius": "acutance_hessian.functions:HessianFrobenius",
        "hessian_effective_dimension": "acutance_hessian.functions:HessianEffectiveDimension",
        "gauss_newton_trace": "acutance_hessian.functions:GaussNewtonTrace",
    }


@hookimpl
def register_figures() -> dict[str, str]:
    """Return the recipes of figures."""
    return {"density": "acutance_hessian.figures:Density"}
