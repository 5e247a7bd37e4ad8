"""Loss and error at the points of frames, on every split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from acutance.surface.moving_point import MovingPoint

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface.loss_surface import LossSurface
    from acutance.surface.many_points import ManyPoints
    from acutance.workflows.landscape.frames import Frame, Place


class Reading(NamedTuple):
    """What is read at a point: mean loss, and share of wrong predictions; None where no error is defined."""

    loss: float
    error: float | None


Readings = dict[str, Reading]  # by split


class Slices:
    """The surfaces of the splits, and memory for the point that they are evaluated at.

    Args:
        surfaces: of one model, by split; batch normalization is recalibrated on the first, that of the training points.
        recalibrated: whether its statistics are made anew at every point.
    """

    def __init__(self, surfaces: Mapping[str, LossSurface], recalibrated: bool = False) -> None:
        self._surfaces, self._recalibrated = dict(surfaces), recalibrated
        first, *others = self._surfaces.values()
        self._first = first
        point = MovingPoint(first)
        self._w = point.w
        self._points = [point, *(MovingPoint(surface, w=self._w) for surface in others)]

    def readings(self, frame: Frame, places: Sequence[Place]) -> Iterator[tuple[Place, Readings]]:
        """Yield what is read at each place, one after the other, or many at once where that is faster.

        Which of the two is told by the model and the splits alone, so a point has the same value among any others.
        """
        rows = self._rows(frame)
        if rows is None:
            for place in places:
                yield place, self.at(frame, place)
            return
        size = len(rows[0].rows)
        for start in range(0, len(places), size):
            yield from self._many(frame, rows, places[start : start + size])

    def _rows(self, frame: Frame) -> list[ManyPoints] | None:
        """Return rows for many points of each split, which share their memory of the first; None for one by one."""
        if self._recalibrated or frame.segment is not None:
            return None
        rows = [surface.many_points(1 << 20) for surface in self._surfaces.values()]
        if any(each is None for each in rows):
            return None
        found = [each for each in rows if each is not None]
        for other in found[1:]:
            other.rows = found[0].rows
        return found

    def at(self, frame: Frame, place: Place) -> Readings:
        """Return what is read at a place: n forwards a split, and as many as the first has where it is recalibrated."""
        frame.place(place, self._w)
        named = frame.buffers(place)
        points = list(zip(self._surfaces, self._surfaces.values(), self._points, strict=True))
        if named or self._recalibrated:
            first = self._first.with_buffers(named)
            if self._recalibrated:
                again = first.recalibrated(self._w)
                named = again.buffers if again is not first else named
            moved = {name: surface.with_buffers(named) for name, surface, _ in points}
            points = [(name, surface, MovingPoint(surface, w=self._w)) for name, surface in moved.items()]
        found = {}
        for name, surface, point in points:
            evaluation = point.value()
            found[name] = Reading(float(evaluation.loss), _error(surface, evaluation.note))
        return found

    def _many(self, frame: Frame, rows: list[ManyPoints], places: Sequence[Place]) -> Iterator[tuple[Place, Readings]]:
        """Yield what is read at places whose points pass together."""
        memory = rows[0].rows
        for row, place in enumerate(places):
            frame.place(place, memory[row])
        # A pass of other size may add in another order, so that all are of one: a point is the same among any others.
        memory[len(places) :] = memory[0]
        found: list[Readings] = [{} for _ in places]
        for (name, surface), each in zip(self._surfaces.items(), rows, strict=True):
            raw = each.raw_logits(len(memory))[: len(places)]
            for reading, loss, error in zip(found, surface.losses_at(raw).tolist(), _errors(surface, raw), strict=True):
                reading[name] = Reading(loss, error)
        yield from zip(places, found, strict=True)


def _errors(surface: LossSurface, raw: Tensor) -> list[float | None]:
    """Return the mean errors of raw logits, (k, n, K), at k points; None where none is defined."""
    return [_error(surface, each) for each in raw]


def _error(surface: LossSurface, note: Tensor) -> float | None:
    """Return the mean error from what is kept of a pass; None where none is defined."""
    return float(surface.errors_noted(note).double().mean()) if surface.has_errors else None
