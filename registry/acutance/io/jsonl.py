"""Rows as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

from pydantic import Field

from acutance.sink import Sink
from acutance.spec import Spec


class JsonlSpec(Spec):
    """Settings of the file."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+\.jsonl$")] = "results.jsonl"
    """Its name in the run directory, which ends in .jsonl."""


class Jsonl(Sink[JsonlSpec]):
    """A file in the run directory with one JSON object a line, each there as soon as its value is stored.

    Numbers that are not finite are null: the status says so. A run that goes on adds its lines at the end.
    """

    name = "jsonl"

    def files(self) -> Sequence[str]:
        """Return the one file."""
        return (self.spec.file,)

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Open the file, behind what is in it."""
        path = directory / self.spec.file
        self._file: TextIO = path.open("a", encoding="utf-8")
        if not _ends_with_a_line(path):  # a line that a kill cut off must not spoil the next one
            self._file.write("\n")

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a line, and hand it to the system."""
        plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        self._file.write(json.dumps(plain, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_with_a_line(path: Path) -> bool:
    """Return whether a file ends with the end of a line; true of an empty one."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 1, 0))
        return file.read() in (b"", b"\n")
