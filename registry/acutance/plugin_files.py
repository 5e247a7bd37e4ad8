"""Plugins of one file, beside a study: what they register is known by the file's name and by what it holds.

The distribution of such an item is ``NAME.py@DIGEST``, the first digits of the file's SHA-256: keys of values, jobs and
the record of a run hold it with the id. Jobs carry the source itself, so that each worker, on any machine, runs what
the driver read, whatever becomes of the file meanwhile.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from acutance.errors import UserError, caught
from acutance.plugins import KINDS, Catalog, Item, adopt, catalog, collected

DIGITS = 16  # of the digest in an id
LARGEST = 1_000_000  # bytes of a file


class PluginFile(NamedTuple):
    """A file that is a plugin.

    Attributes:
        name: of the file, without its folder.
        source: its text.
        path: where it was read, for tracebacks.
    """

    name: str
    source: str
    path: str

    @property
    def digest(self) -> str:
        """SHA-256 of the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def dist(self) -> str:
        """What stands for the distribution in ids."""
        return f"{self.name}@{self.digest[:DIGITS]}"


_known: dict[str, PluginFile] = {}  # those of this process, by ``dist``


def read(path: Path) -> PluginFile:
    """Return a file that is to be a plugin; nothing of it is run.

    Raises:
        UserError: for a file that is missing, no Python file, too large, or no text.
    """
    if path.suffix != ".py":
        raise UserError(f"{path}: is no Python file", "a plugin beside a study is one file NAME.py")
    if not path.is_file():
        hint = (
            "a study names plugins relative to its own file, the config.yaml of a run by where they were: "
            "put the file there, or change 'plugins'"
        )
        raise UserError(f"{path}: no such file", hint)
    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise UserError(f"{path}: has {len(data)} bytes", "make a package of it: acutance new")
        return PluginFile(path.name, data.decode(), str(path.resolve()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


@lru_cache(maxsize=64)
def items(file: PluginFile) -> tuple[Item, ...]:
    """Return what a file registers; it is run once a process.

    Raises:
        UserError: for a file that fails, or registers nothing.
    """
    module = ModuleType(f"acutance_file_{Path(file.name).stem}_{file.digest[:DIGITS]}")
    # The lines of the source, for tracebacks and docstrings of fields, also where the file itself is not there.
    module.__file__ = shown = f"{file.path} ({file.digest[:DIGITS]})"
    linecache.cache[shown] = (len(file.source), None, file.source.splitlines(keepends=True), shown)
    sys.modules[module.__name__] = module
    found: list[Item] = []
    with caught() as errors:
        exec(compile(file.source, shown, "exec", dont_inherit=True), vars(module))
        found = collected(module, file.dist, file.digest[:DIGITS])
    for error in errors:
        del sys.modules[module.__name__]
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(
            f"{file.path}: is no plugin: {told}", "see 'acutance --traceback', and docs/plugins.md"
        ) from error
    marked = [name for name, value in vars(module).items() if hasattr(value, "acutance_impl")]
    if called := [name for name in marked if name.startswith("on_")]:
        raise UserError(f"{file.path}: has the hook '{called[0]}'", "hooks of runs need a package: acutance new")
    if scalings := [item.name for item in found if item.kind == "scalings"]:
        raise UserError(f"{file.path}: registers the scaling '{scalings[0]}'", "write scaling: module:function instead")
    if not found:
        hint = "mark functions such as register_measures with @acutance.hookimpl"
        raise UserError(f"{file.path}: registers nothing", hint)
    return tuple(found)


def adopted(files: Sequence[PluginFile], base: Catalog | None = None) -> Catalog:
    """Let this process know what files register, and return what is installed with these alone.

    Args:
        files: plugins of one study.
        base: what is installed; this process's catalog by default.

    Raises:
        UserError: for a file that is no plugin, and a name that is taken: by another file, or by what is installed.
    """
    own = without_files(base or catalog())
    together: list[Item] = []
    for file in dict.fromkeys(files):
        for item in items(file):
            for other in (*together, *own.items(item.kind)):
                if (other.kind, other.name) == (item.kind, item.name):
                    raise UserError(
                        f"{file.path}: the {item.kind.removesuffix('s')} name '{item.name}' is taken by {other.dist}",
                        "give it another name",
                    )
            together.append(item)
        _know(file)
    adopt(together)
    return own.with_items(together)


def without_files(plugins: Catalog) -> Catalog:
    """Return a catalog without what files register."""
    return plugins.keeping(lambda item: item.dist not in _known)


def carried(text: str) -> list[list[str]]:
    """Return the files that a job's text needs, as JSON values: those whose ids are in it."""
    return [list(file) for dist, file in _known.items() if f"{dist}/" in text]


def in_use() -> list[list[str]]:
    """Return the files that this process's catalog finds something of, as JSON values, the last adopted one last."""
    found = {item.dist for kind in KINDS for item in catalog().items(kind)}
    return [list(file) for dist, file in _known.items() if dist in found]


def received(files: Sequence[Sequence[str]]) -> None:
    """Know what a job, or the figures that are to be drawn, bring."""
    for file in (PluginFile(*values) for values in files):
        adopt(items(file))
        _know(file)


def _know(file: PluginFile) -> None:
    _known.pop(file.dist, None)  # a file of before that is adopted again is the last one
    _known[file.dist] = file
