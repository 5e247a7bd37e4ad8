"""Everything that is on its way out, in one table: what it was called, what it is called, since when, until when.

An old name works, and warns, from ``since`` up to the release ``until``, which may then do without it. Modules that
moved are found by ``acutance.moved``; a module that loses a name says ``__getattr__ = renamed_names(__name__)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Deprecation(NamedTuple):
    """One old name.

    Attributes:
        old: a module, or ``module:name``.
        new: where the same is now, written likewise.
        since: first release that has the new name.
        until: first release that may lack the old one.
    """

    old: str
    new: str
    since: str
    until: str

    def __str__(self) -> str:
        old, new = (name.replace(":", ".") for name in (self.old, self.new))
        return f"{old} is called {new} since acutance {self.since}; the old name goes with {self.until}"

    def warn(self, stacklevel: int = 3) -> None:
        """Tell whoever uses the old name."""
        warnings.warn(str(self), DeprecationWarning, stacklevel=stacklevel)


def _modules(since: str, until: str, moved: dict[str, str]) -> tuple[Deprecation, ...]:
    return tuple(Deprecation(old, new, since, until) for old, new in moved.items())


DEPRECATED: tuple[Deprecation, ...] = (
    # What documents named before modules lay in folders.
    *_modules("0.1.0", "1.0", {
        "acutance.analysis.delimited": "acutance.io.delimited",
        "acutance.attributes": "acutance.study.attributes",
        "acutance.cache": "acutance.io.folders",
        "acutance.checkpoint_files": "acutance.io.checkpoint_files",
        "acutance.checkpoints": "acutance.io.checkpoints",
        "acutance.data_files": "acutance.io.data_files",
        "acutance.downloads": "acutance.io.downloads",
        "acutance.evaluation": "acutance.system.kept",
        "acutance.executors": "acutance.run.executors",
        "acutance.integrity": "acutance.surface.integrity",
        "acutance.lazy": "acutance.data.lazy",
        "acutance.many_points": "acutance.surface.many_points",
        "acutance.moving_point": "acutance.surface.moving_point",
        "acutance.parquet": "acutance.io.parquet",
        "acutance.perturbed": "acutance.surface.perturbed",
        "acutance.points": "acutance.data.points",
        "acutance.recipe": "acutance.training.recipe",
        "acutance.remote": "acutance.io.remote",
        "acutance.roots": "acutance.io.folders",
        "acutance.threads": "acutance.system.kept",
        "acutance.trained": "acutance.training.trained",
        "acutance.worker": "acutance.run.worker",
    }),
)  # fmt: skip


def deprecated_modules() -> dict[str, Deprecation]:
    """Return the modules that have another name now, by the old one."""
    return {one.old: one for one in DEPRECATED if ":" not in one.old}


def renamed(module: str, name: str) -> Any:
    """Return what a module's old name stands for, with a warning.

    Args:
        module: that had the name.
        name: which is not there any more.

    Raises:
        AttributeError: for a name that the module never had.
    """
    for one in DEPRECATED:
        if one.old == f"{module}:{name}":
            one.warn(stacklevel=4)
            home, _, new = one.new.partition(":")
            return getattr(import_module(home), new)
    raise AttributeError(f"module '{module}' has no attribute '{name}'")


def renamed_names(module: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module that has lost names."""

    def get(name: str) -> Any:
        return renamed(module, name)

    return get
