"""The hooks a plugin may implement; every argument is passed by name, so a hook may take a subset of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from acutance.analysis.statistics import Statistic
    from acutance.dataset import Dataset
    from acutance.measure import Measure
    from acutance.pool import ModelPool
    from acutance.report.recipes import Recipe
    from acutance.run.executors import Executor
    from acutance.sink import Sink

hookspec = pluggy.HookspecMarker("acutance")


@dataclass(frozen=True)
class Retry:
    """Answer to ``on_cell_error``: evaluate again with at most this many examples in a pass."""

    microbatch: int


@dataclass(frozen=True)
class Skip:
    """Answer to ``on_cell_error``: record the cells as unsupported, with this reason."""

    reason: str


@dataclass(frozen=True)
class Fail:
    """Answer to ``on_cell_error``: record the cells as failed."""


@hookspec
def register_measures() -> Iterable[type[Measure[Any]] | str]:  # type: ignore[empty-body]
    """Return measure classes, or ``{name: "module:Class"}``, whose modules are imported when first looked up."""


@hookspec
def register_pools() -> Iterable[type[ModelPool[Any]] | str]:  # type: ignore[empty-body]
    """Return model pool classes, or ``{name: "module:Class"}``."""


@hookspec
def register_datasets() -> Iterable[type[Dataset[Any]] | str]:  # type: ignore[empty-body]
    """Return dataset classes, or ``{name: "module:Class"}``."""


@hookspec
def register_executors() -> Iterable[type[Executor[Any]] | str]:  # type: ignore[empty-body]
    """Return executor classes, or ``{name: "module:Class"}``."""


@hookspec
def register_scalings() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return ``{name: "module:function"}``: functions of a surface giving the vector c, (p,) or None for ones."""


@hookspec
def register_figures() -> Iterable[type[Recipe] | str]:  # type: ignore[empty-body]
    """Return classes of recipes, each of which draws figures of a run, or ``{name: "module:Class"}``."""


@hookspec
def register_sinks() -> Iterable[type[Sink[Any]] | str]:  # type: ignore[empty-body]
    """Return classes of sinks, which take values while they are made, or ``{name: "module:Class"}``."""


@hookspec
def register_statistics() -> Iterable[type[Statistic] | str]:  # type: ignore[empty-body]
    """Return statistic classes, or ``{name: "module:Class"}``: tables of every run, with their place on its page."""


@hookspec
def on_run_start(config: Mapping[str, Any], directory: str) -> None:
    """Called in the driver once the plan is made and before the first cell is computed."""


@hookspec
def on_outcome(outcome: Mapping[str, Any]) -> None:
    """Called in the driver for every outcome a worker sends, after it has been stored."""


@hookspec
def on_run_end(directory: str, summary: Mapping[str, Any]) -> None:
    """Called in the driver when everything has been written."""


@hookspec(firstresult=True)
def on_cell_error(error: BaseException, measure: str, microbatch: int) -> Retry | Skip | Fail | None:
    """Decide in the worker what becomes of cells whose evaluation raised; the first answer counts.

    Args:
        error: what was raised.
        measure: canonical id of the measure.
        microbatch: examples in one pass when it was raised.
    """
