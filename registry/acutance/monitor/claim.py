"""One training of a name in a directory at a time: two would take each other's steps for their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a file for as long as the block, or this process, lasts; tell whether nobody else holds it.

    Where files cannot be locked nobody does.

    Args:
        path: of the file, which is made, and removed afterwards.
    """
    handle, free = _taken(path)
    try:
        yield free
    finally:
        if free and handle is not None:
            with suppress(OSError):
                if _is_at(handle, path):
                    path.unlink()
        if handle is not None:
            os.close(handle)


def _taken(path: Path) -> tuple[int | None, bool]:
    """Return the file, opened and locked, and whether it is ours alone; None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None, True
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return None, True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return handle, False
        except OSError:  # a file system that knows no locks
            return handle, True
        # Who held it may have removed it since it was opened: then the lock is on a file that nobody else will find.
        if _is_at(handle, path):
            return handle, True
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
