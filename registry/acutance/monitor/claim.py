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
    try:
        import fcntl

        handle = os.open(path, os.O_RDWR | os.O_CREAT)
    except (ImportError, OSError):
        yield True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except OSError:  # a file system that knows no locks
        free = True
    try:
        yield free
    finally:
        if free:
            with suppress(OSError):
                path.unlink()
        os.close(handle)
