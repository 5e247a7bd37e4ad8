"""What all trackers have in common: runs by name that go on, points that are not given twice, where things lie."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from acutance.errors import UserError
from acutance.pool import Attribute
from acutance.sink import Sink
from acutance.spec import Spec, digest
from acutance_trackers.points import Points
from acutance_trackers.shown import Shown, shown

PROJECT = Annotated[str, Field(pattern=r"^[\w.@+ -]+$")]


class FolderSpec(Spec):
    """Settings of a tracker that writes to a folder."""

    folder: Annotated[str, Field(min_length=1)] = "tracker"
    """Where it writes: a folder in the run directory, or an absolute path."""


class ProjectSpec(FolderSpec):
    """Settings of a tracker that sorts runs into projects."""

    project: PROJECT | None = None
    """The project that runs belong to; the name of the run directory by default."""


TrackerT = TypeVar("TrackerT", bound=FolderSpec)


class Tracker(Sink[TrackerT]):
    """A tracker: a training is a run of it with a curve a metric, in a study each model is a run.

    Class attributes say what a subclass is like; it opens runs, logs to them and ends them.

    Attributes:
        packages: what has to be there, as {module: what pip installs}.
        remembers: whether a run that goes on knows which points it has; False where the tracker takes points back.
        most_open: runs that are open at the same time.
    """

    packages: ClassVar[Mapping[str, str]] = {}
    remembers: ClassVar[bool] = True
    most_open: ClassVar[int] = 8

    def files(self) -> Sequence[str]:
        """Return the name of the account of points."""
        return (self._account,) if self.remembers else ()

    @property
    def _account(self) -> str:
        where = {name: getattr(self.spec, name, None) for name in ("folder", "project", "uri")}
        return f".{self.name}-{digest(where)[:8]}.jsonl"

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Make sure that the library is there, and take the account of what was shown before."""
        self.prepare()
        for module, package in self.packages.items():
            self.require(module, package)
        self.directory = directory.absolute()
        self.folder = self.directory / self.spec.folder
        self.project = getattr(self.spec, "project", None) or re.sub(r"[^\w.@+ -]", "-", self.directory.name)
        self.facts = {name: config[name] for name in ("title", "seed") if config.get(name) is not None}
        self.facts |= {f"surface.{k}": v for k, v in dict(config.get("surface") or {}).items() if _is_plain(v)}
        there = self.folder.exists() or not self.is_local
        self.folder.mkdir(parents=True, exist_ok=True)
        self._points = Points(self.directory / self._account if self.remembers else None, anew=not there)
        self._runs: dict[str, Any] = {}
        self.start()

    @staticmethod
    def require(module: str, package: str) -> None:
        """Import a module.

        Raises:
            UserError: where it cannot be imported, with what to install.
        """
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"pip install '{package}', or the extra 'trackers': {error}") from None

    def write(self, row: Mapping[str, Any]) -> None:
        """Show a row: numbers that it has not, and a text where there is no number."""
        new = shown(row)
        points = self._points
        numbers = {name: v for name, v in new.numbers.items() if not points.has(new.run, name, new.step, v)}
        texts = {name: v for name, v in new.texts.items() if not points.has(new.run, name, new.step, v)}
        if not numbers and not texts:
            return
        self.log(self._run(new), numbers, texts, new.step)
        for name, value in (*numbers.items(), *texts.items()):
            points.add(new.run, name, new.step, value)

    def _run(self, new: Shown) -> Any:
        if new.run in self._runs:
            self._runs[new.run] = self._runs.pop(new.run)  # the last one used
            return self._runs[new.run]
        if len(self._runs) >= self.most_open:
            self.end(self._runs.pop(next(iter(self._runs))))
        found, run = self.begin(new, self._points.id_of(new.run), self.facts | dict(new.facts))
        self._points.name(new.run, found)
        self._runs[new.run] = run
        return run

    def close(self) -> None:
        """End all runs."""
        try:
            while self._runs:
                self.end(self._runs.pop(next(iter(self._runs))))
        finally:
            self._points.close()

    # -- what a tracker says --------------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """Whether all of it lies in the folder."""
        return True

    def prepare(self) -> None:
        """Called before the library is imported."""

    def start(self) -> None:
        """Called once, when the folder is there."""

    @abstractmethod
    def begin(self, new: Shown, known: str, facts: Mapping[str, Attribute]) -> tuple[str, Any]:
        """Open a run, or one that is there again.

        Args:
            new: the first row of it.
            known: its id in the tracker; empty for a new one.
            facts: what is known of it beside its numbers.

        Returns:
            The id, and what ``log`` and ``end`` are given.
        """

    @abstractmethod
    def log(self, run: Any, numbers: Mapping[str, float], texts: Mapping[str, str], step: int | None) -> None:
        """Show numbers and texts of one step; None where there are no steps."""

    def end(self, run: Any) -> None:
        """End a run, or leave it for a while."""


def at(step: int | None, text: str) -> str:
    """Return a text with its step, for where a tracker keeps one text of a name."""
    return text if step is None else f"step {step}: {text}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
