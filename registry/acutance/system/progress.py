"""What a person sees while a study runs: stages with time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from acutance.system.kept import python_rng

with python_rng():  # rich draws a number as it is imported
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )


class Reporter(Protocol):
    """What a run reports to: its stages, and progress in them."""

    def stage(self, name: str, total: float, items: int) -> None:
        """A stage begins: its expected work in any unit, and the number of items it has."""
        ...

    def advance(self, work: float, items: int = 0) -> None:
        """Work was done in the present stage."""
        ...

    def say(self, text: str) -> None:
        """Tell one line."""
        ...


class Silent:
    """A reporter that prints nothing."""

    def stage(self, name: str, total: float, items: int) -> None:
        """Say nothing."""

    def advance(self, work: float, items: int = 0) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


class Lines:
    """Plain lines, one at most every ``every`` seconds, for logs."""

    def __init__(self, console: Console, every: float = 20.0) -> None:
        self.console, self.every = console, every
        self._name, self._total, self._items = "", 1.0, 0

    def stage(self, name: str, total: float, items: int) -> None:
        """Announce the stage."""
        self._name, self._total, self._items = name, max(total, 1e-12), items
        self._done, self._done_items = 0.0, 0
        self._start = self._last = time.monotonic()
        self.say(f"{name}: {items}")

    def advance(self, work: float, items: int = 0) -> None:
        """Print a line when the last one is old enough."""
        self._done += work
        self._done_items += items
        now = time.monotonic()
        share = min(self._done / self._total, 1.0)
        if now - self._last >= self.every and share > 0:
            self._last = now
            remaining = (now - self._start) * (1 - share) / share
            self.say(f"{self._name}: {self._done_items}/{self._items}, {share:.0%}, {_clock(remaining)} left")

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False)


class Bars:
    """A bar for each stage, with the time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._items, self._scale, self._work, self._done = 0, 1.0, 0.0, 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: float, items: int) -> None:
        """Begin a bar; the one before is left complete."""
        self._items, self._scale, self._done = items, items / max(total, 1e-12), 0.0
        self._task = self._progress.add_task(name, total=items)

    def advance(self, work: float, items: int = 0) -> None:
        """Move the bar by expected work, so that the time left is honest when items differ in cost."""
        self._done += work * self._scale
        if self._task is not None:
            self._progress.update(self._task, completed=min(round(self._done, 3), self._items))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def reporter(console: Console, quiet: bool = False) -> Iterator[Reporter]:
    """Give what suits the place: bars on a terminal, lines in a log, nothing where nothing is to be printed."""
    if quiet:
        yield Silent()
    elif console.is_terminal:
        with Bars(console) as bars:
            yield bars
    else:
        yield Lines(console)
