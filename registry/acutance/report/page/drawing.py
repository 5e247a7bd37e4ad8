"""Figures drawn by several processes at once."""

from __future__ import annotations

import pickle
import queue
from collections.abc import Sequence
from typing import TYPE_CHECKING

from acutance.errors import UserError
from acutance.presentation import presentations, showing
from acutance.system.child import Child, Receive, Send

if TYPE_CHECKING:
    from acutance.report.data import ReportData
    from acutance.report.keys import FigureKey

Drawn = tuple[bytes, bytes]  # PNG, PDF
SERVE = "acutance.report.page.drawing:serve"  # what drawing processes run


def draw_apart(data: ReportData, keys: Sequence[FigureKey], workers: int) -> dict[FigureKey, Drawn | Exception]:
    """Return figures as (PNG, PDF), or what drawing one raised, by so many processes, which end with this call.

    Raises:
        UserError: when one of them dies.
    """
    waiting = list(keys)[::-1]
    drawn: dict[FigureKey, Drawn | Exception] = {}
    heard: queue.Queue[tuple[Child, bytes | None]] = queue.Queue()
    crew: list[Child] = []
    # A child has not read how the measures of a run are shown.
    shared = pickle.dumps((data, presentations(data.measures)))
    try:
        for _ in range(min(workers, len(keys))):
            child = Child(SERVE, "a drawing process", lambda *message: heard.put(message))
            crew.append(child)
            child.send(shared)
            child.send(pickle.dumps(waiting.pop()))
        while len(drawn) < len(keys):
            child, frame = heard.get()
            if frame is None:
                raise UserError(
                    f"figures: {child.ending()}", "the tables are written; 'acutance report' draws the figures again"
                )
            key, outcome = pickle.loads(frame)
            drawn[key] = outcome
            if waiting:
                child.send(pickle.dumps(waiting.pop()))
    finally:
        for child in crew:
            child.kill()
    return {key: drawn[key] for key in keys}


def serve(receive: Receive, send: Send) -> None:
    """Draw figures of the tables that come first, in a child."""
    from acutance.report.page.figures import render
    from acutance.report.recipes.registered import attempt

    data, presented = pickle.loads(receive())
    with showing(presented):
        while True:
            key: FigureKey = pickle.loads(receive())
            outcome = attempt(render, data, key)
            send(_error_frame(key, outcome) if isinstance(outcome, Exception) else pickle.dumps((key, outcome)))


def _error_frame(key: FigureKey, error: Exception) -> bytes:
    """Return an error as a frame; one that cannot travel is told by its words."""
    try:
        frame = pickle.dumps((key, error))
        pickle.loads(frame)
    except Exception:
        frame = pickle.dumps((key, RuntimeError(f"{type(error).__name__}: {error}")))
    return frame
