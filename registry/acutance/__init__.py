"""acutance: a registry of generalization measures for neural networks.

Does this measure, on this pool of models, predict which model generalizes?

The public names are loaded on first use, so that ``import acutance`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from acutance.deprecations import renamed
from acutance.moved import keep_old_paths

if TYPE_CHECKING:
    from acutance.analysis.kendall import kendall_tau
    from acutance.api import measure, run
    from acutance.dataset import Dataset, Split
    from acutance.errors import AcutanceWarning, Unsupported, UserError
    from acutance.measure import Cost, Estimate, Measure, PoolMeasure, SharpnessSpec, Status, Traits
    from acutance.numerics.draws import Streams
    from acutance.plugins import catalog
    from acutance.pool import ModelEntry, ModelPool
    from acutance.spec import Spec
    from acutance.surface.loss_surface import LossSurface
    from acutance.workflows.landscape.making import landscape
    from acutance.workflows.landscape.result import Landscape
    from acutance.workflows.notebook import study
    from acutance.workflows.ranking import rank
    from acutance.workflows.sweeps import sweep

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("acutance")

HOMES = {
    "AcutanceWarning": "errors",
    "Cost": "measure",
    "Dataset": "dataset",
    "Estimate": "measure",
    "Landscape": "workflows.landscape.result",
    "LossSurface": "surface.loss_surface",
    "Measure": "measure",
    "ModelEntry": "pool",
    "ModelPool": "pool",
    "PoolMeasure": "measure",
    "SharpnessSpec": "measure",
    "Spec": "spec",
    "Split": "dataset",
    "Status": "measure",
    "Streams": "numerics.draws",
    "Traits": "measure",
    "Unsupported": "errors",
    "UserError": "errors",
    "catalog": "plugins",
    "kendall_tau": "analysis.kendall",
    "landscape": "workflows.landscape.making",
    "rank": "workflows.ranking",
    "sweep": "workflows.sweeps",
}

__all__ = [
    "AcutanceWarning",
    "Cost",
    "Dataset",
    "Estimate",
    "Landscape",
    "LossSurface",
    "Measure",
    "ModelEntry",
    "ModelPool",
    "PoolMeasure",
    "SharpnessSpec",
    "Spec",
    "Split",
    "Status",
    "Streams",
    "Traits",
    "Unsupported",
    "UserError",
    "__version__",
    "catalog",
    "hookimpl",
    "kendall_tau",
    "landscape",
    "measure",
    "rank",
    "run",
    "study",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        return renamed(__name__, name)
    return getattr(import_module(f"acutance.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _shadowed(name: str, home: str) -> property:
    """Return what keeps a function in place where a module of its name is imported.

    The import system sets every submodule; ``from acutance.measure import Measure`` finds it without.
    """

    def get(package: ModuleType) -> Any:
        return vars(package).get(name) or getattr(import_module(f"acutance.{home}"), name)

    def put(package: ModuleType, value: Any) -> None:
        if not isinstance(value, ModuleType):
            vars(package)[name] = value

    def drop(package: ModuleType) -> None:
        vars(package).pop(name, None)

    return property(get, put, drop, f"The function ``acutance.{home}.{name}``, unless somebody has set something else.")


class _Package(ModuleType):
    """Makes ``acutance.measure``, ``run`` and ``study`` the functions, whoever imported the modules of these names."""

    measure = _shadowed("measure", "api")
    run = _shadowed("run", "api")
    study = _shadowed("study", "workflows.notebook")


sys.modules[__name__].__class__ = _Package
keep_old_paths()
