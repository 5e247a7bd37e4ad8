"""Sinks: where values go while they are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from acutance.spec import Specified, SpecT


class Sink(Specified[SpecT], ABC):
    """Takes values one by one as they are made: to a file that something else reads, to a tracker, to a screen.

    A row is a plain mapping. One that a run gives has what the table of its results has: ``model``, ``pool``,
    ``attr.*``, ``measure``, ``split``, ``spec.*`` (every setting), ``replicate``, ``value``, ``stderr`` (None where
    there is none), ``status``, ``message``, ``extra.*`` (numbers and texts). What is measured while something trains
    has a ``step`` too.
    """

    name: ClassVar[str]

    def __init__(self, spec: SpecT | None = None) -> None:
        self.spec: SpecT = spec if spec is not None else self.Spec()  # type: ignore[assignment]

    def files(self) -> Sequence[str]:
        """Return the names of the files that it writes to the directory of a run.

        A run is refused before it begins where one of them is there and no run wrote it, or somebody has changed it
        since: it would be spoilt.
        """
        return ()

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Called once before the first row.

        Args:
            directory: of the run; it is there, and may be that of a run that goes on.
            config: the resolved study.
        """

    @abstractmethod
    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row, when it is stored; the next is computed when this returns."""

    def close(self) -> None:
        """Called once after the last row, also when a run is broken off."""
