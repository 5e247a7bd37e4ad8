"""What the statistics and the page of a run directory were made from, so that old ones are made anew, or marked."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from acutance import __version__
from acutance.report.written import put

FILE = ".outputs"
SOURCES = ("models.csv", "results.csv", "config.yaml")
OLD = (
    '<p role="alert"><strong>This page and its figures are older than the tables beside it, which a run without a '
    "report has written since: 'acutance report DIRECTORY' makes them anew.</strong></p>"
)

Made = Literal["statistics", "page"]


def is_current(directory: Path, made: Made) -> bool:
    """Whether something was made from the tables and the config as they are, by this version."""
    return _read(directory).get(made) == _state(directory)


def stamp(directory: Path, made: Made) -> None:
    """Note that something has been made from the tables and the config as they are."""
    _write(directory, _read(directory) | {made: _state(directory)})


def mark_old(page: Path) -> None:
    """Say at the top of a page that it is older than the tables beside it, once."""
    text = page.read_text("utf-8")
    if OLD not in text:
        marked = re.sub(r"<body[^>]*>", lambda found: found[0] + OLD, text, count=1)
        put(page.parent, {page.name: marked if marked != text else OLD + text})
    _write(page.parent, {name: state for name, state in _read(page.parent).items() if name != "page"})


def _state(directory: Path) -> str:
    content = b"".join(path.read_bytes() for name in SOURCES if (path := directory / name).exists())
    return f"{hashlib.sha256(content).hexdigest()} {__version__}"


def _read(directory: Path) -> dict[str, Any]:
    try:
        found = json.loads((directory / FILE).read_text("utf-8"))
    except (OSError, ValueError):  # none, or one of an older version
        return {}
    return found if isinstance(found, dict) else {}


def _write(directory: Path, stamps: dict[str, Any]) -> None:
    (directory / FILE).write_text(json.dumps(stamps, indent=2) + "\n", "utf-8")
