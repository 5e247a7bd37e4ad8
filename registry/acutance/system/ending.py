"""SIGTERM and SIGHUP, by which clusters and terminals end a program: it ends in order, as Ctrl-C makes it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from acutance.errors import Terminated

__all__ = ["STORED", "Terminated", "in_order", "what_is_left"]

STORED = "what was computed is stored; the same command goes on from there"


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


def what_is_left(end: BaseException) -> str:
    """Return what follows on "interrupted": the notes on what ended the program, or on its cause, if it has some."""
    notes = getattr(end.__cause__ or end, "__notes__", ())
    return f": {'; '.join(notes)}" if notes else " before it was done"


@contextmanager
def in_order() -> Iterator[None]:
    """Raise ``Terminated`` for SIGTERM and SIGHUP inside of this block, and say so on stderr when it leaves.

    What stores values notes that on the exception, ``error.add_note(STORED)``: only then it is said.

    Only where these signals would end the program at once: handlers of its own, and ``nohup``, stay as they are.
    Nothing changes outside of the main thread, which alone receives signals.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {n: signal.signal(n, _raise) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    except Terminated as end:
        if before:
            print(f"ended by {end.name}{what_is_left(end)}", file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
