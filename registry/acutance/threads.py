"""Numba and torch in one process share OpenMP, and its number of threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_threads() -> Iterator[None]:
    """Give torch its number of threads back after a parallel loop of numba, which sets its own for both.

    Workers of one thread would use all cores from there, and wait for one another most of the time.
    """
    torch = sys.modules.get("torch")  # who has not imported it has no number to keep
    before = torch.get_num_threads() if torch is not None else 0
    try:
        yield
    finally:
        if torch is not None and torch.get_num_threads() != before:
            torch.set_num_threads(before)
