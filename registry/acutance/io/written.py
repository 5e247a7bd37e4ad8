"""Which files are ours, in a run's folder and by themselves: those may be replaced or removed; a user's own stay.

Each folder that we write to keeps a manifest of what we wrote there, with a digest of each file. A file is ours while
it is listed and as we left it: one that somebody else made, or changed since, is refused with what to do. Files of a
run, and those that a command was asked for by name, never replace each other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from acutance.errors import UserError

MANIFEST = ".written.json"
ABOUT = "What acutance wrote in this folder, with the SHA-256 of each file: while a file is so, it may be replaced."
FOLDERS = ("figures", "tables")
ANY = "*"  # in a manifest of an earlier version, a list of names: "older"
STRANGE = "is there, and acutance did not write it"
CHANGED = "was changed since acutance wrote it"


@dataclass
class _Manifest:
    """What a folder's manifest says.

    Attributes:
        files: of a run, digest by name; empty while a file is being written, or where an earlier version wrote it: ours
            then, whatever it holds.
        alone: the same of files that were written by themselves.
        scope: "listed" where all of a run's files in the folder are listed; "older" where it was a run's folder before
            it had a manifest, so that whatever bears a name of a run's there is ours; empty where no run wrote.
    """

    files: dict[str, str] = field(default_factory=dict)
    alone: dict[str, str] = field(default_factory=dict)
    scope: Literal["", "listed", "older"] = ""

    def of(self, alone: bool) -> dict[str, str]:
        """Return the digests of one kind, to be changed."""
        return self.alone if alone else self.files


def written(folder: Path) -> set[str]:
    """Return the names of a run's files in a folder, as its manifest says; none without one."""
    return set(_read(folder).files)


def foreign(folder: Path, names: Iterable[str], ours: bool = True) -> str:
    """Return the first of some names that is there and not ours to replace, and why; empty when there is none.

    Args:
        folder: of a run; it need not be there.
        names: of files that are to be written.
        ours: whether a folder without a manifest is ours, of a version that kept none.
    """
    known = _read(folder)
    older = known.scope == "older" or (ours and not known.scope)
    return next((f"{n} {why}" for n in names if (why := _strange(folder / n, known.files, older, known.alone))), "")


def begin(folder: Path, names: Iterable[str], ours: bool) -> None:
    """Keep a manifest of a run's folder from now on, and of those in it, so that what is there already is known.

    Args:
        folder: which is there.
        names: ours.
        ours: whether the folder is ours already: without a manifest, all of its files that bear our names are.
    """
    with _changing(folder) as known:
        if not known.scope:
            known.scope = "older" if ours else "listed"
            if ours:
                known.files |= {n: "" for n in names if n not in known.files and (folder / n).exists()}
    for inner in (folder / name for name in FOLDERS):
        if not ours and inner.is_dir():
            with _changing(inner) as known:
                known.scope = known.scope or "listed"


def put(folder: Path, files: Mapping[str, str | bytes], gone: str = "") -> None:
    """Write files of a run, each in one piece, and remove ours of an earlier time that a pattern fits.

    Args:
        folder: made when it is not there.
        files: what they hold, by name.
        gone: pattern of names that only belong to the present set; none by default.

    Raises:
        UserError: for a file of one of these names that is not ours; nothing is written or removed then.
    """
    if theirs := foreign(folder, sorted(files)):
        raise UserError(
            f"{folder}/{theirs}", "move it away and give the same command again: what was computed is stored"
        )
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with _changing(folder) as known:
        old = {name for name in known.files if name not in files and fnmatch(name, gone)}
        for name in old:
            if not _strange(folder / name, known.files):  # what was changed by hand stays, no longer ours
                (folder / Path(name).name).unlink(missing_ok=True)
            del known.files[name]
        known.scope = known.scope or ("older" if there else "listed")
    _put(folder, files, alone=False)


@contextmanager
def growing(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Let files of a run be written bit by bit inside this block: they are ours then, whatever they hold.

    So they stay should we be killed; else they are ours afterwards as they are then.

    Args:
        folder: of the run.
        names: of the files, which need not be there.
    """
    if not names:
        yield
        return
    with _changing(folder) as known:
        known.files |= dict.fromkeys(names, "")
    try:
        yield
    finally:
        with (
            suppress(OSError),
            _changing(folder) as known,
        ):  # what becomes of a run whose folder is gone, it says itself
            there = {name: _digest(folder / name) for name in names if (folder / name).exists()}
            known.files = {name: digest for name, digest in known.files.items() if name not in names} | there


def require_ours(path: Path) -> None:
    """Refuse a file, to be written by itself, that is there and not ours, and a place where there can be none.

    Raises:
        UserError: for such a file, a folder, and a folder that is not there.
    """
    if path.is_dir():
        raise UserError(f"{path}: cannot be written: is a folder", "give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written: there is no folder {path.parent}", "make it, or name another file")
    if why := _strange(path, _read(path.parent).alone):
        raise UserError(f"{path}: {why}", "name another file, or delete this one")


def put_file(path: Path, content: str | bytes) -> None:
    """Write a file by itself, in one piece.

    Raises:
        UserError: for one that is there and not ours, and where it cannot be written.
    """
    require_ours(path)
    try:
        _put(path.parent, {path.name: content}, alone=True)
    except OSError as error:
        hint = "choose a folder you may write to" if isinstance(error, PermissionError) else "name another file"
        raise UserError(f"{path}: cannot be written: {error.strerror}", hint) from None


def _put(folder: Path, files: Mapping[str, str | bytes], alone: bool) -> None:
    """Write files and their digests; until one is whole it counts as ours whatever it holds, should we be killed."""
    with _changing(folder) as known:
        known.of(alone).update(dict.fromkeys(files, ""))
    digests = {}
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        digests[name] = hashlib.sha256(data).hexdigest()
        partial = folder / f"{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)
    with _changing(folder) as known:
        known.of(alone).update(digests)


def _strange(path: Path, known: Mapping[str, str], older: bool = False, others: Iterable[str] = ()) -> str:
    """Return why a file is not ours; empty when it is, or is not there.

    Args:
        path: of the file.
        known: digests by name.
        older: whether a file that is not listed is ours all the same.
        others: names for which that does not hold.
    """
    if not (path.exists() or path.is_symlink()):
        return ""
    if path.name not in known:
        return "" if older and path.name not in others else STRANGE
    if not (digest := known[path.name]):
        return ""
    try:
        found = _digest(path)
    except OSError as error:
        return f"cannot be replaced: {error.strerror}"
    return "" if found == digest else CHANGED


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> _Manifest:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return _Manifest()
    if isinstance(found, list):  # of a version that kept no digests
        names = {str(name) for name in found}
        return _Manifest(dict.fromkeys(names - {ANY}, ""), scope="older" if ANY in names else "listed")
    try:
        return _Manifest(dict(found["files"]), dict(found["alone"]), found["scope"])
    except (KeyError, TypeError, ValueError):  # somebody else's
        return _Manifest()


@contextmanager
def _changing(folder: Path) -> Iterator[_Manifest]:
    """Give the manifest of a folder to be changed, and write it; commands that do so at the same time take turns."""
    with _turn(folder):
        known = _read(folder)
        yield known
        text = json.dumps({"about": ABOUT, **asdict(known)}, indent=1, sort_keys=True)
        partial = folder / f"{MANIFEST}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(folder / MANIFEST)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # a system that cannot lock a folder
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that knows no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
