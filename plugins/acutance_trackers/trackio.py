"""Trackio, in a folder of the run directory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field

from acutance.pool import Attribute
from acutance_trackers.shown import Shown
from acutance_trackers.tracker import ProjectSpec, Tracker

_TURN = threading.Lock()


class TrackioSpec(ProjectSpec):
    """Settings of Trackio."""

    folder: Annotated[str, Field(min_length=1)] = "trackio"
    """Where its database lies: in the run directory, or an absolute path. ``TRACKIO_DIR=FOLDER trackio show``."""


class Trackio(Tracker[TrackioSpec]):
    """Runs of Trackio in a project, each value there as soon as it is stored.

    Values go straight to its database. ``trackio.init`` would end a run that the user has open, start threads, and ask
    the hub who is logged in.
    """

    name = "trackio"
    packages = {"trackio": "trackio>=0.43"}

    def begin(self, new: Shown, known: str, facts: Mapping[str, Attribute]) -> tuple[str, Any]:
        """Name a run; it is made with its first value."""
        about = {"_Username": None, "_Created": datetime.now(UTC).isoformat(), "_Group": None}
        found = known or uuid4().hex
        return found, {"run": new.run, "run_id": found, "config": None if known else about | dict(facts)}

    def log(self, run: Any, numbers: Mapping[str, float], texts: Mapping[str, str], step: int | None) -> None:
        """Write numbers and texts of a step."""
        with self._database() as storage:
            storage.bulk_log(project=self.project, metrics_list=[{**numbers, **texts}], steps=[step or 0], **run)
        run["config"] = None

    @contextmanager
    def _database(self) -> Iterator[Any]:
        """Give its storage, which lies in the one folder that it found when it was imported, in ours for a moment."""
        from trackio import sqlite_storage

        with _TURN:
            before = sqlite_storage.TRACKIO_DIR
            sqlite_storage.TRACKIO_DIR = self.folder
            try:
                yield sqlite_storage.SQLiteStorage
            finally:
                sqlite_storage.TRACKIO_DIR = before
