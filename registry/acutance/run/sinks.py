"""The sinks of a run: they get the same rows, and one that fails is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any

from acutance.errors import as_errors, caught, in_words, warn
from acutance.plugins import Item
from acutance.sink import Sink
from acutance.spec import Spec


def files_of(chosen: Iterable[tuple[Item, Spec]]) -> list[str]:
    """Return the names of the files that sinks write to the directory of a run; one that fails to say has none.

    Args:
        chosen: what is registered, with its settings.
    """
    names: list[str] = []
    for item, spec in chosen:
        with caught():
            names += [str(name) for name in item.target(spec).files()]
    return names


class Sinks(AbstractContextManager["Sinks"]):
    """Several sinks that get the same rows; one that fails is told once, and gets no more.

    A signal that ends the program while one of them is at work ends it when all of them have had their turn.

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
                sink.open(self._directory, deepcopy(self._config))
                self._open.append((item, sink))
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Give a row to every sink that has not failed, a copy to each."""

        def give(item: Item, sink: Sink[Any]) -> None:
            with self._guarded(item, sink):
                sink.write(dict(row))

        self._each(give)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        def close(item: Item, sink: Sink[Any]) -> None:
            with self._guarded(item, told="could not be closed"):
                sink.close()

        self._each(close)

    def _each(self, do: Callable[[Item, Sink[Any]], None]) -> None:
        """Do something with all open sinks in their order, also with those behind one that is interrupted."""
        with ExitStack() as stack:
            for pair in reversed(self._open):
                stack.callback(do, *pair)

    @contextmanager
    def _guarded(self, item: Item, sink: Sink[Any] | None = None, told: str = "gets nothing more") -> Iterator[None]:
        """Tell what a sink raises, and close it and leave it out from there."""
        with caught() as errors:
            with as_errors("it"):
                yield
        for error in errors:
            self._say(f"sink '{item.name}' of {item.dist} {item.version} {told}: {in_words(error)}")
            if sink is not None:
                self._open = [pair for pair in self._open if pair[1] is not sink]
                with caught():  # one sentence is enough
                    sink.close()
