"""What is known of points: in memory, or in a store that a killed command goes on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save

from acutance.measure import Estimate, Status
from acutance.run.rows import Attempt, PartRow
from acutance.run.store import Store
from acutance.spec import digest
from acutance.workflows.landscape.slices import Reading, Readings

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.system.progress import Reporter
    from acutance.workflows.landscape.frames import Frame, Place

STORE = "landscape.db"
VECTORS = "directions"  # folder of vectors that are dear to make
EVERY = 0.5  # seconds after which what was computed is stored: a kill loses no more
NONFINITE = "the loss is not finite here"

Compute = Callable[["Frame", Sequence["Place"]], Iterator[tuple["Place", Readings]]]


class Values:
    """Readings by the key of a point.

    Args:
        folder: where they are stored; None for memory alone.
        identity: of each split: what its readings depend on beside the point.
        about: what they are of, for the record.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str], about: Mapping[str, Any]) -> None:
        self._folder, self._identity = folder, dict(identity)
        self._memory: dict[str, Reading] = {}
        self._store = None if folder is None else Store(folder / STORE)
        self._run = 0 if self._store is None else self._store.start_run(about, {})
        self._parts = None if self._store is None else self._store.parts()
        self._waiting: list[PartRow] = []
        self._since = self._stored = time.monotonic()
        self.computed = 0

    def close(self) -> None:
        """Store what waits, and release the store."""
        try:
            self._flush()
        finally:
            if self._store is not None:
                self._store.close()

    def of(
        self, frame: Frame, places: Sequence[Place], compute: Compute, reporter: Reporter, examples: float
    ) -> dict[Place, Readings]:
        """Return the readings at places; what is not known is computed, and stored as it comes.

        Args:
            frame: where the places are.
            places: each once.
            compute: what makes readings.
            reporter: told of progress.
            examples: of a point, as work.
        """
        known = {place: found for place in places if (found := self._known(frame, place)) is not None}
        missing = [place for place in places if place not in known]
        reporter.advance(examples * len(known), len(known))
        try:
            for place, readings in compute(frame, missing):
                known[place] = readings
                self._put(frame, place, readings)
                self.computed += 1
                reporter.advance(examples, 1)
        finally:
            self._flush()
        return {place: known[place] for place in places}

    def vectors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return vectors that are dear to make, read from the folder where they are there already."""
        return make() if self._folder is None else stored_vectors(self._folder, name, make)

    def _key(self, frame: Frame, place: Place, split: str) -> str:
        return digest([frame.key, self._identity[split], list(place)])

    def _known(self, frame: Frame, place: Place) -> Readings | None:
        found = {split: self._get(self._key(frame, place, split)) for split in self._identity}
        readings = {split: reading for split, reading in found.items() if reading is not None}
        return readings if len(readings) == len(found) else None

    def _get(self, key: str) -> Reading | None:
        if key in self._memory or self._parts is None:
            return self._memory.get(key)
        estimate = self._parts.get(key)
        return None if estimate is None else Reading(estimate.value, estimate.extras["error"])

    def _put(self, frame: Frame, place: Place, readings: Readings) -> None:
        for split, reading in readings.items():
            key = self._key(frame, place, split)
            self._memory[key] = reading
            if self._store is not None:
                self._waiting.append(PartRow(key, frame.key, 0, _estimate(reading)))
        if time.monotonic() - self._stored > EVERY:
            self._flush()

    def _flush(self) -> None:
        now = time.monotonic()
        if self._store is not None and self._waiting:
            rows, self._waiting = self._waiting, []
            self._store.put_parts(
                rows,
                Attempt(self._run, "", "landscape", "", 0, len(rows), "", now - self._stored, 0, 0, 0),
            )
        self._stored = now


def _estimate(reading: Reading) -> Estimate:
    error = None if reading.error is None or math.isnan(reading.error) else reading.error
    extras = {"error": error}
    if math.isfinite(reading.loss):
        return Estimate(reading.loss, extras=extras)
    return Estimate(reading.loss, None, Status.NONFINITE, NONFINITE, (), extras)


def unique(places: Iterable[Place]) -> list[Place]:
    """Return places, each once, in order."""
    return list(dict.fromkeys(places))


def stored_vectors(folder: Path, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return vectors by name, read from a folder where they are there, else made and written."""
    path = folder / VECTORS / f"{digest(name)[:24]}.safetensors"
    if path.is_file():
        return load_file(path)
    made = {key: vector.detach().cpu().contiguous() for key, vector in make().items()}
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(save(made))
    partial.replace(path)
    return made
