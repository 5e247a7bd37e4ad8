"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the closed forms."""
    return {
        "dln_trace": "acutance_dln.measures:DLNTrace",
        "dln_top_eigenvalue": "acutance_dln.measures:DLNTopEigenvalue",
        "dln_beta_norm": "acutance_dln.measures:DLNBetaNorm",
    }


@hookimpl
def register_scalings() -> dict[str, str]:
    """Return the paper's c."""
    return {"balanced": "acutance_dln.scalings:balanced"}


@hookimpl
def register_pools() -> dict[str, str]:
    """Return the pools: trained networks, scaled classifiers."""
    return {
        "dln": "acutance_dln.pools:DLN",
        "linear_scale": "acutance_dln.linear:LinearScale",
    }


@hookimpl
def register_datasets() -> dict[str, str]:
    """Return the data of both pools."""
    return {
        "sparse_regression": "acutance_dln.regression:SparseRegression",
        "linear_separable": "acutance_dln.linear:LinearSeparable",
    }
