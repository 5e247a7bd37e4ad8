"""Which points a tracker has, kept beside the run's store: most trackers can neither be asked nor take one back."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class Points:
    """The runs of a tracker by their ids, and the points they have, in a file that grows by a line a point.

    A training that goes on from a checkpoint comes by steps that were shown before. A point with the value that is
    there is not given again; one with another value is, since the tracker shows the last.

    Args:
        path: of the file; None where the tracker itself takes back what comes again.
        anew: whether the tracker has nothing of what the file says.
    """

    def __init__(self, path: Path | None, anew: bool) -> None:
        self._points: dict[tuple[str, str, int | None], object] = {}
        self._ids: dict[str, str] = {}
        self._file: TextIO | None = None
        if path is None:
            return
        text = path.read_text(encoding="utf-8") if path.exists() and not anew else ""
        for line in text.splitlines():
            with suppress(ValueError):  # a line that a kill cut off
                run, name, *point = json.loads(line)
                if point:
                    self._points[run, name, point[0]] = point[1]
                else:
                    self._ids[run] = name
        self._file = path.open("w" if anew else "a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def id_of(self, run: str) -> str:
        """Return the id of a run in the tracker; empty for one that it has not."""
        return self._ids.get(run, "")

    def name(self, run: str, id: str) -> None:
        """Keep the id of a run."""
        if self._ids.get(run) != id:
            self._ids[run] = id
            self._write(run, id)

    def has(self, run: str, name: str, step: int | None, value: object) -> bool:
        """Return whether the tracker has a point."""
        return self._points.get((run, name, step)) == value

    def add(self, run: str, name: str, step: int | None, value: object) -> None:
        """Keep that it has a point."""
        self._points[run, name, step] = value
        self._write(run, name, step, value)

    def _write(self, *parts: object) -> None:
        if self._file is not None:
            self._file.write(json.dumps(parts, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
