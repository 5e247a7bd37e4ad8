"""Statistics of a study: what one is made of (``base``, ``study``), and the built-in ones, a file each.

The names are loaded when they are used: ``acutance list`` reads what the files say without pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acutance.analysis.statistics.base import Cell, Section, Statistic
    from acutance.analysis.statistics.study import Level, StudyTables

__all__ = ["Cell", "Level", "Section", "Statistic", "StudyTables"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'acutance.analysis.statistics' has no attribute '{name}'")
    home = "study" if name in ("Level", "StudyTables") else "base"
    return getattr(import_module(f"acutance.analysis.statistics.{home}"), name)
