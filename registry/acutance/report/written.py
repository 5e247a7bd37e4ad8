"""Which files of a folder are ours: those that are written again or removed; a user's own stay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

MANIFEST = ".written.json"


def written(folder: Path) -> set[str]:
    """Return the names of the files of a folder that were written by us, as its manifest says; none without one."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return set()
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def renew(folder: Path, names: Iterable[str], pattern: str) -> None:
    """Take note that files are written, and remove ours of an earlier time that the pattern fits.

    Args:
        folder: made when it is not there.
        names: of the files that are about to be written.
        pattern: of names that only belong to the present set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new, before = set(names), written(folder)
    gone = {name for name in before - new if fnmatch(name, pattern)}
    for name in gone:
        (folder / Path(name).name).unlink(missing_ok=True)
    (folder / MANIFEST).write_text(json.dumps(sorted((before - gone) | new), indent=0) + "\n", encoding="utf-8")
