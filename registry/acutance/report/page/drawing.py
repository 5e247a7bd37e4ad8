"""Figures drawn by several processes at once."""

from __future__ import annotations

import pickle
import queue
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from acutance.errors import UserError, caught, in_words, warn
from acutance.plugin_files import in_use, received
from acutance.presentation import presentations, showing
from acutance.system.child import Child, Receive, Send

if TYPE_CHECKING:
    from acutance.report.data import ReportData
    from acutance.report.keys import FigureKey

Drawn = tuple[bytes, bytes]  # PNG, PDF
SERVE = "acutance.report.page.drawing:serve"  # what drawing processes run


def draw_apart(
    data: ReportData, keys: Sequence[FigureKey], workers: int, say: Callable[[str], None] = warn
) -> dict[FigureKey, Drawn | Exception]:
    """Return figures as (PNG, PDF), or what drawing one raised, by so many processes, which end with this call.

    What cannot be sent to another process is drawn in this one, which ``say`` is told.

    Raises:
        UserError: when one of them dies.
    """
    with caught() as errors:
        # A child knows no plugin of one file, and has not read how the measures of a run are shown.
        shared = pickle.dumps((data, presentations(data.measures)))
    for error in errors:
        say(f"figures are drawn by one process, since what they are drawn from cannot be sent: {in_words(error)}")
        return {key: _drawn(data, key) for key in keys}
    waiting = list(keys)[::-1]
    drawn: dict[FigureKey, Drawn | Exception] = {}
    heard: queue.Queue[tuple[Child, bytes | None]] = queue.Queue()
    at_work: dict[Child, FigureKey] = {}
    crew: list[Child] = []

    def give(child: Child) -> None:
        at_work[child] = waiting.pop()
        child.send(pickle.dumps(at_work[child]))

    try:
        for _ in range(min(workers, len(keys))):
            child = Child(SERVE, "a drawing process", lambda *message: heard.put(message))
            crew.append(child)
            child.send(pickle.dumps(in_use()))  # before the data, which may hold what a file defines
            child.send(shared)
            give(child)
        for _ in keys:  # each is answered once
            child, frame = heard.get()
            if frame is None:
                raise UserError(
                    f"figures: {child.ending()}", "the tables are written; 'acutance report' draws the figures again"
                )
            drawn[at_work[child]] = pickle.loads(frame)
            if waiting:
                give(child)
    finally:
        for child in crew:
            child.kill()
    return {key: drawn[key] for key in keys}


def serve(receive: Receive, send: Send) -> None:
    """Draw figures of the tables that come first, behind the plugins of one file, in a child."""
    received(pickle.loads(receive()))
    data, presented = pickle.loads(receive())
    with showing(presented):
        while True:
            key: FigureKey = pickle.loads(receive())
            outcome = _drawn(data, key)
            send(_error_frame(outcome) if isinstance(outcome, Exception) else pickle.dumps(outcome))


def _drawn(data: ReportData, key: FigureKey) -> Drawn | Exception:
    from acutance.report.page.figures import render
    from acutance.report.recipes.registered import attempt

    return attempt(render, data, key)


def _error_frame(error: Exception) -> bytes:
    """Return an error as a frame; one that cannot travel is told by its words."""
    with caught() as errors:
        frame = pickle.dumps(error)
        pickle.loads(frame)
    return pickle.dumps(RuntimeError(in_words(error))) if errors else frame
