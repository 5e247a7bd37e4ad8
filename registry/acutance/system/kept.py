"""Contexts that leave a process its number of threads and the state of its random generators."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
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
def python_rng() -> Iterator[None]:
    """Leave Python's own random generator in the state it was in."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every global random generator in the state it was in."""
    import numpy as np
    import torch

    python, numpy_state, cpu = random.getstate(), _numpy_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        if not _same(_numpy_state(), numpy_state):  # asking costs less than writing
            np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


_last: tuple[bytes, Any] = b"", None  # memory of numpy's global generator, and the state that it is


def _numpy_state() -> Any:
    """Return the state of numpy's global generator: (name, words, place, flag, number).

    numpy hands it out word by word, which takes as long as a pass through a small model. So it is asked anew only where
    the generator's memory differs from that of the last time.
    """
    global _last
    import numpy as np

    numbers: Any = np.random
    memory = _memory(numbers.get_state.__self__, numbers.get_bit_generator()) if _memory_tells() else b""
    if not memory or memory != _last[0]:
        _last = memory, np.random.get_state()
    return _last[1]


def _memory(generator: Any, words: Any) -> bytes:
    """Return what memory holds of numpy's RandomState and its words; nothing where they are not the usual ones."""
    import numpy as np

    if type(words) is not np.random.MT19937 or type(generator) is not np.random.RandomState:
        return b""
    header, size = object.__basicsize__, np.random.RandomState.__basicsize__
    own = ctypes.string_at(id(generator) + header, size - header)
    return own + ctypes.string_at(words.ctypes.state_address, 4 * 624 + 4)


@cache
def _memory_tells() -> bool:
    """Return whether all of a state is seen in memory: words, place, and the normal number that is set aside."""
    import numpy as np

    if sys.implementation.name != "cpython":
        return False  # where an id is no address
    words = np.random.MT19937(0)
    one = np.random.RandomState(words)
    start, state = _memory(one, words), one.get_state()
    seen = {start}
    for draw in (one.standard_normal, one.standard_normal, one.random_sample, lambda: one.seed(1)):
        draw()
        seen.add(_memory(one, words))
    one.set_state(state)
    return len(seen) == 5 and _memory(one, words) == start


def _same(a: Any, b: Any) -> bool:
    """Return whether two states of numpy's generator are one."""
    return a is b or bool(a[2:] == b[2:] and a[0] == b[0] and (a[1] == b[1]).all())
