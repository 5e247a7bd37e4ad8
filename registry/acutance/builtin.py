"""What the core itself registers: targets, scalings, local executors, a sink, figures and statistics of every study."""

from __future__ import annotations

from acutance import hookimpl
from acutance.hookspecs import Fail, Retry


@hookimpl
def register_measures() -> dict[str, str]:
    """Return the targets."""
    return {"error": "acutance.empirical:Error", "loss": "acutance.empirical:Loss"}


@hookimpl
def register_scalings() -> dict[str, str]:
    """Return the named strategies for c."""
    functions = {"filter": "filter_norm", "layer": "layer_norm"}
    names = ("none", "elementwise", "elementwise_eta", "filter", "layer")
    return {name: f"acutance.scaling:{functions.get(name, name)}" for name in names}


@hookimpl
def register_executors() -> dict[str, str]:
    """Return the executors that need nothing but this machine."""
    return {"serial": "acutance.run.executors:Serial", "processes": "acutance.run.executors:Processes"}


@hookimpl
def register_figures() -> dict[str, str]:
    """Return the recipes of figures that any study may have."""
    names = (
        "Tau",
        "Target",
        "Gap",
        "Hyperparameter",
        "Radii",
        "Pairwise",
        "Iterations",
        "M",
        "Curve",
        "Profile",
        "Partners",
        "Trajectories",
    )
    return {name.lower(): f"acutance.report.recipes.{name.lower()}:{name}" for name in names}


@hookimpl
def register_sinks() -> dict[str, str]:
    """Return the sink that needs nothing but a file."""
    return {"jsonl": "acutance.io.jsonl:Jsonl"}


@hookimpl
def register_statistics() -> dict[str, str]:
    """Return the statistics of every run, in the order in which the page tells of them."""
    names = (
        "hypotheses",
        "confounds",
        "associations",
        "radii",
        "estimates",
        "ceilings",
        "pairwise",
        "trainings",
        "verdicts",
    )
    return {name: f"acutance.analysis.statistics.{name}:{name.capitalize()}" for name in names}


@hookimpl(trylast=True)
def on_cell_error(error: BaseException, microbatch: int) -> Retry | Fail:
    """Halve the microbatch when memory ran out; everything else is a failure."""
    out_of_memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
    return Retry(microbatch // 2) if out_of_memory and microbatch > 1 else Fail()
