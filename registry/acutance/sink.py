"""Sinks: where values go while they are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from acutance.errors import warn
from acutance.plugins import Item
from acutance.spec import Spec, Specified, SpecT


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


class Sinks(AbstractContextManager["Sinks"]):
    """Several sinks that get the same rows; one that fails is told once, and gets no more.

    Args:
        chosen: what is registered, with its settings.
        directory: of the run.
        config: the resolved study.
        say: told in one sentence of a sink that fails.
    """

    def __init__(
        self,
        chosen: Iterable[tuple[Item, Spec]],
        directory: Path,
        config: Mapping[str, Any],
        say: Callable[[str], None] = warn,
    ) -> None:
        self._chosen, self._directory, self._config, self._say = list(chosen), directory, config, say
        self._open: list[tuple[Item, Sink[Any]]] = []

    def __enter__(self) -> Sinks:
        for item, spec in self._chosen:
            with self._guarded(item):
                sink: Sink[Any] = item.target(spec)
                sink.open(self._directory, self._config)
                self._open.append((item, sink))
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Give a row to every sink that has not failed, a copy to each."""
        for item, sink in list(self._open):
            with self._guarded(item, sink):
                sink.write(dict(row))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for item, sink in self._open:
            with self._guarded(item):
                sink.close()
        self._open.clear()

    @contextmanager
    def _guarded(self, item: Item, sink: Sink[Any] | None = None) -> Iterator[None]:
        """Tell what a sink raises, and close it and leave it out from there."""
        try:
            yield
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {error}"
            self._say(f"sink '{item.name}' of {item.dist} {item.version} gets nothing more: {why}")
            if sink is not None:
                self._open = [pair for pair in self._open if pair[1] is not sink]
                with suppress(Exception, SystemExit):  # one sentence is enough
                    sink.close()
