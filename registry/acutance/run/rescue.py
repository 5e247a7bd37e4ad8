"""A store whose folder is deleted or renamed while a run writes to it: noticed, and what it holds is kept."""

from __future__ import annotations

import ctypes
import itertools
import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from acutance.errors import UserError


class Place:
    """Where a file lies, as it was opened.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._identity = _identity(self.path)

    def there(self) -> bool:
        """Whether the file is still found under its name."""
        return _identity(self.path) == self._identity

    def moved_to(self) -> Path | None:
        """Return the name that the open file has now, where the system tells."""
        with suppress(OSError):
            for link in Path("/proc/self/fd").iterdir():
                with suppress(OSError):
                    target = Path(os.readlink(link))
                    if target != self.path and _identity(target) == self._identity:
                        return target
        return None

    def loss(self, connection: sqlite3.Connection) -> UserError:
        """Return the error for a file that has gone; what it holds is saved where the message says.

        Args:
            connection: open to the file; it must stay open (``leave_open``).
        """
        folder, moved = self.path.parent, self.moved_to()
        if moved is not None:
            return UserError(
                f"{folder}: was renamed to {moved.parent} during the run, which has stopped; what it computed is there",
                f"go on with --out {moved.parent}",
            )
        saved = _free_folder(folder)
        with closing(sqlite3.connect(saved / self.path.name)) as copy:
            connection.backup(copy)
        return UserError(
            f"{folder}: was deleted during the run, which has stopped; what it computed is kept in {saved}",
            f"go on with --out {saved}",
        )


def leave_open(connection: sqlite3.Connection) -> None:
    """Keep a connection until the process ends, even when nobody refers to it any more.

    Closing it would delete the log that lies under the old name, which may be that of another run by now.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _free_folder(lost: Path) -> Path:
    """Make a folder beside the lost one, or where one can be made."""
    for parent in (lost.parent, Path.cwd(), Path(tempfile.gettempdir())):
        for number in itertools.count(1):
            folder = parent / f"{lost.name}-rescued-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            except OSError:
                break
            return folder
    raise UserError(f"{lost}: was deleted during the run, and no folder can be made to keep what it computed")
