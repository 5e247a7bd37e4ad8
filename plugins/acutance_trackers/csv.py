"""A CSV file with one line a value, which does not double when a training goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from acutance.errors import UserError
from acutance.plugins import catalog
from acutance.sink import Sink
from acutance.spec import Spec
from acutance_trackers.shown import ATTRIBUTE, OWN, SPEC, metric_name, prefixed

COLUMNS = (
    "run", "step", "metric", "value", "stderr", "status", "message", "model", "pool", "measure", "split", "replicate",
    "settings", "attributes",
)  # fmt: skip
TABLES = {"models", "results", "correlations", "curves", "pairs", "sweep"}  # of every run


class CsvSpec(Spec):
    """Settings of the file."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+\.csv$")] = "values.csv"
    """Its name in the run directory, which ends in .csv."""

    @field_validator("file")
    @classmethod
    def _of_its_own(cls, value: str) -> str:
        if value.removesuffix(".csv") in TABLES | {item.name for item in catalog().items("statistics")}:
            raise ValueError("a table of the run has this name")
        return value


class Csv(Sink[CsvSpec]):
    """A CSV file in the run directory: a line a value, with its metric's name, run, step, settings and attributes.

    Each line is there as soon as its value is stored. When a training goes on, the lines from its first step on are
    replaced; in a study a value that is computed anew takes the place of the one before. Settings and attributes are
    JSON.
    """

    name = "csv"

    def files(self) -> Sequence[str]:
        """Return the one file."""
        return (self.spec.file,)

    def open(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Read which lines are there; one that a kill cut off is no line."""
        self._path = directory / self.spec.file
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
        if lines and header != ",".join(COLUMNS):
            raise UserError(f"{self._path} has other columns than {', '.join(COLUMNS)}: move the file away")
        self._lines = {_place(line): line for line in lines}
        self._began: set[str] = set()
        self._rewrite()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a line, in place of those that it makes old."""
        step, run = row.get("step"), str(row["model"])
        if step is not None:
            run = str(row.get(f"{ATTRIBUTE}run", run))
        cells = {name: row.get(name) for name in COLUMNS}
        cells |= {"run": run, "metric": metric_name(row), "settings": _json(prefixed(row, SPEC))}
        attributes = {name: v for name, v in prefixed(row, ATTRIBUTE).items() if step is None or name not in OWN}
        line = ",".join(_quoted(v) for v in (cells | {"attributes": _json(attributes)}).values())
        if step is not None and run not in self._began:
            self._began.add(run)
            old = {place for place in self._lines if place[0] == run and place[1] and int(place[1]) >= step}
            if old:
                self._lines = {place: kept for place, kept in self._lines.items() if place not in old}
                self._file.close()
                self._rewrite()
        # The line before it stays in the file until it is closed: a study that is computed anew has very many.
        self._doubled |= self._lines.pop(_place(line), None) is not None
        self._lines[_place(line)] = line
        self._file.write(line + "\n")
        self._file.flush()

    def _rewrite(self) -> None:
        self._doubled = False
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text("\n".join([",".join(COLUMNS), *self._lines.values()]) + "\n", encoding="utf-8")
        partial.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file, with one line for each value."""
        self._file.close()
        if self._doubled:
            self._rewrite()
            self._file.close()


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), ensure_ascii=False)


def _quoted(value: Any) -> str:
    """Return a cell, in one line."""
    text = "" if value is None else " ".join(str(value).splitlines())
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if re.search(r'[",]', text) else text


def _place(line: str) -> tuple[str, str, str]:
    """Return run, step and metric of a line of ours: one that comes again at the same place is the same point."""
    cells = re.findall(r'(?:^|,)("(?:[^"]|"")*"|[^,]*)', line)
    run, step, metric = (c[1:-1].replace('""', '"') if c.startswith('"') else c for c in cells[:3])
    return run, step, metric
