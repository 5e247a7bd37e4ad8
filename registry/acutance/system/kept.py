"""Contexts that leave a process its number of threads and the state of its random generators."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every global random generator in the state it was in."""
    import numpy as np
    import torch

    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        if not _same(np.random.get_state(), numpy_state):  # asking costs a fifth of writing
            np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _same(a: Any, b: Any) -> bool:
    """Return whether two states of numpy's generator are one: (name, words, place, flag, number)."""
    return bool(a[2:] == b[2:] and a[0] == b[0] and (a[1] == b[1]).all())
