"""Statistics of a study: what one is made of (``base``, ``study``), and the built-in ones, a file each."""

from acutance.analysis.statistics.base import Cell, Section, Statistic
from acutance.analysis.statistics.study import Level, StudyTables

__all__ = ["Cell", "Level", "Section", "Statistic", "StudyTables"]
