"""Which files of a folder are ours: those that are written again or removed; a user's own stay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from acutance.errors import UserError

MANIFEST = ".written.json"
ANY = "*"  # in a manifest: the folder was ours before it had one, so whatever bears a name of ours there is ours
FOLDERS = ("figures", "tables")


def written(folder: Path) -> set[str]:
    """Return the names of the files of a folder that were written by us, as its manifest says; none without one."""
    return _read(folder)[0] - {ANY}


def _read(folder: Path) -> tuple[set[str], bool]:
    """Return what the manifest of a folder lists, and whether there is one."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return set(), False
    listed = {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()
    return listed, isinstance(found, list)


def _write(folder: Path, names: set[str]) -> None:
    (folder / MANIFEST).write_text(json.dumps(sorted(names), indent=0) + "\n", encoding="utf-8")


def foreign(folder: Path, names: Iterable[str], ours: bool = True) -> str:
    """Return the first of some names that is there and that we did not write; empty when there is none.

    Args:
        folder: which need not be there.
        names: of files that are to be written.
        ours: whether a folder without a manifest is ours, of a version that kept none.
    """
    listed, kept = _read(folder)
    if ANY in listed or (ours and not kept):
        return ""
    return next((name for name in names if name not in listed and (folder / name).exists()), "")


def begin(folder: Path, names: Iterable[str], ours: bool) -> None:
    """Keep a manifest of a run's folder from now on, and of those in it, so that what is there already is known.

    Args:
        folder: which is there.
        names: ours.
        ours: whether the folder is ours already: without a manifest, all of its files that bear our names are.
    """
    if not _read(folder)[1]:
        _write(folder, {ANY, *(name for name in names if (folder / name).exists())} if ours else set())
    for inner in (folder / name for name in FOLDERS):
        if not ours and inner.is_dir() and not _read(inner)[1]:
            _write(inner, set())


def renew(folder: Path, names: Iterable[str], pattern: str = "") -> None:
    """Take note that files are written, and remove ours of an earlier time that the pattern fits.

    Args:
        folder: made when it is not there.
        names: of the files that are about to be written.
        pattern: of names that only belong to the present set; none by default.

    Raises:
        UserError: for a file of one of these names that is not ours; nothing is written or removed then.
    """
    new = set(names)
    if theirs := foreign(folder, sorted(new)):
        raise UserError(
            f"{folder / theirs}: is there, and no run wrote it",
            "move it away and give the same command again: what was computed is stored",
        )
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    before, kept = _read(folder)
    gone = {name for name in before - new - {ANY} if fnmatch(name, pattern)}
    for name in gone:
        (folder / Path(name).name).unlink(missing_ok=True)
    _write(folder, (before - gone) | new | ({ANY} if there and not kept else set()))
