"""One landscape, from its directions to its table."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from acutance.data.fingerprint import model_key
from acutance.errors import Unsupported
from acutance.model.recalibration import layers_with_statistics
from acutance.numerics.basis import NonFiniteProduct
from acutance.spec import digest
from acutance.workflows.landscape import curvature
from acutance.workflows.landscape.directions import Keep, frame_of, loss_name
from acutance.workflows.landscape.ends import End, ends
from acutance.workflows.landscape.frames import Frame, Place
from acutance.workflows.landscape.result import COLUMNS, Landscape, barrier
from acutance.workflows.landscape.slices import Readings, Slices
from acutance.workflows.landscape.values import Compute, Values, unique
from acutance.workflows.memory import architecture

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.model.functional import FunctionalModel
    from acutance.surface.loss_surface import LossSurface
    from acutance.system.progress import Reporter
    from acutance.workflows.landscape.asked import Asked

SKIPPED = "how much of the Hessian's trace it carries was not asked for"
STALE_STATISTICS = (
    "running statistics of batch normalization are those of the model at every point: away from it the loss is that of "
    "stale statistics, also at the checkpoints (batch_norm recalibrated has those of each point)"
)


class Work:
    """One landscape.

    Args:
        wanted: what is asked for.
        surfaces: of the splits; directions and curvature are those of the first.
        functional: the model.
        reporter: told of progress.
        folder: where points are stored; None for memory alone.
    """

    def __init__(
        self,
        wanted: Asked,
        surfaces: Mapping[str, LossSurface],
        functional: FunctionalModel,
        reporter: Reporter,
        folder: Path | None,
    ) -> None:
        self.wanted, self.surfaces, self.reporter, self.folder = wanted, surfaces, reporter, folder
        self.first = next(iter(surfaces.values()))
        self.functional = functional
        self.key = model_key(architecture(functional.model), functional.model)
        # A function of one's own needs a name where values outlive the process, and nowhere else.
        self.loss = loss_name(self.first.criterion) if folder is not None else str(self.first.criterion)
        self.notes: list[str] = []
        self.batch_norm = self._batch_norm()
        self._small: list[Tensor] = []
        self._without: dict[str, Any] | None = None if wanted.curvature else {"note": SKIPPED}

    def _batch_norm(self) -> str:
        """Return what is done about running statistics: none where the model keeps none."""
        if not layers_with_statistics(self.functional):
            return "none"
        kind = self.wanted.kinds[0]
        chosen = self.wanted.batch_norm or ("recalibrated" if kind in ("plane", "pca") else "eval")
        if chosen == "eval" and kind in ("plane", "pca"):
            self.notes.append(STALE_STATISTICS)
        return chosen

    def _identity(self) -> dict[str, str]:
        """Return what the readings of each split depend on beside the point."""
        common = [self.loss, self.batch_norm, str(self.first.dtype)]
        if self.batch_norm == "recalibrated":
            common.append(self.first.digest)
        return {name: digest([*common, surface.digest]) for name, surface in self.surfaces.items()}

    def ends(self, given: Sequence[Any], names: Sequence[str], key: str = "", prefix: str = "") -> list[End]:
        """Return checkpoints beside the model as vectors; see ``run``."""
        return ends(self.first, given, names, key, prefix) if given else []

    def frame(self, others: Sequence[End], keep: Keep, draw: int) -> Frame:
        """Return where the line, or the plane, of a draw lies."""
        return frame_of(self.first, self.wanted, (self.key, self.loss), others, keep, self.notes, draw)

    def run(
        self, given: Sequence[Any], names: Sequence[str], key: str, prefix: str, compute: Compute | None = None
    ) -> Landscape:
        """Return the landscape.

        Args:
            given: checkpoints beside the model, as ``ends`` takes them.
            names: of these.
            key: where in a file the state lies.
            prefix: taken off the names in a file.
            compute: what makes readings elsewhere; here by default.
        """
        others = self.ends(given, names, key, prefix)
        about = {"landscape": list(self.wanted.kinds), "model": self.key}
        values = Values(self.folder, self._identity() if self.folder else {n: n for n in self.surfaces}, about)
        try:
            return self._drawn(values, others, compute)
        finally:
            values.close()

    def _drawn(self, values: Values, others: Sequence[End], compute: Compute | None) -> Landscape:
        """Return the landscape, with what is known already taken from ``values``."""
        wanted = self.wanted
        compute = compute or Slices(self.surfaces, self.batch_norm == "recalibrated").readings
        examples = sum(surface.n for surface in self.surfaces.values())
        total = wanted.grid**wanted.dimensions * wanted.draws
        self.reporter.stage("points", total * examples, total)
        rows: list[tuple[Any, ...]] = []
        about: dict[str, Any] = {}
        for draw in range(wanted.draws):
            frame = self.frame(others, values.vectors, draw)
            places = grid_of(frame, wanted)
            marks = frame.marks.values()
            found = values.of(frame, unique([*places, *marks]), compute, self.reporter, examples)
            rows += _rows(frame, set(places), found, self.surfaces)
            about = about or self._about(frame)
            self._look(frame)
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        about["curvature"] = self._curvature()
        about["carries"] = curvature.in_words(about["curvature"])
        about["barrier"] = barriers(table, list(self.surfaces)) if wanted.kinds == ("segment",) else {}
        lost = int((table["status"] != "ok").sum())
        if lost:
            self.notes.append(f"{lost} of {len(table)} values are not finite: pictures leave them out")
        about["notes"] = list(dict.fromkeys([*self.functional.all_notes, *self.notes]))
        return Landscape(table, about, self.folder, values.computed)

    def _about(self, frame: Frame) -> dict[str, Any]:
        """Return what the landscape is of, as JSON values."""
        wanted = self.wanted
        return {
            "kinds": list(wanted.kinds), "dimensions": wanted.dimensions, "grid": wanted.grid, "extent": wanted.extent,
            "normalize": wanted.normalize, "draws": wanted.draws, "seed": wanted.seed,
            "settings": dict(wanted.settings),
            "parameters": wanted.parameters, "model": self.key, "architecture": architecture(self.functional.model),
            "weights": self.first.size, "loss": self.loss, "dtype": str(self.first.dtype).removeprefix("torch."),
            "splits": {name: surface.n for name, surface in self.surfaces.items()}, "batch_norm": self.batch_norm,
            "axes": [axis.about(frame.origin) | self._several() for axis in frame.axes],
            "marks": {name: list(place) for name, place in frame.marks.items()},
            "path": [list(place) for place in frame.path], "path_names": list(frame.about.get("path_names", ())),
            "explained": list(frame.about.get("explained", ())),
            "errors": any(surface.has_errors for surface in self.surfaces.values()),
        }  # fmt: skip

    def _several(self) -> dict[str, str]:
        """Return what stands for the name of an axis where it is one of several lines."""
        return {"name": f"random 1 to {self.wanted.draws}"} if self.wanted.draws > 1 else {}

    def _look(self, frame: Frame) -> None:
        """Take the curvature in a plane, while its vectors are there."""
        if self._without is None:
            try:
                self._small.append(curvature.within(self.first, [axis.vector for axis in frame.axes]))
            except (Unsupported, NonFiniteProduct) as error:
                self._without = curvature.failed(error)

    def _curvature(self) -> dict[str, Any]:
        """Return how much of the curvature the planes carry, or why that is not known."""
        if self._without is not None:
            return self._without
        try:
            return curvature.carried(self.first, self._small, self.wanted.probes, self.wanted.seed)
        except (Unsupported, NonFiniteProduct) as error:
            return curvature.failed(error)
        finally:
            self.first.release()


def grid_of(frame: Frame, wanted: Asked) -> list[Place]:
    """Return the places of the grid, row after row."""
    axes = frame.grid(wanted.grid, wanted.extent)
    if len(axes) == 1:
        return [Place(a) for a in axes[0]]
    return [Place(a, b) for b in axes[1] for a in axes[0]]


def _rows(
    frame: Frame, grid: Collection[Place], found: Mapping[Place, Readings], splits: Collection[str]
) -> list[tuple[Any, ...]]:
    """Return the rows of a table, as ``COLUMNS`` says."""
    names = {place: name for name, place in frame.marks.items()}
    rows = []
    for place, readings in found.items():
        b = place.b if len(frame.axes) == 2 else math.nan
        for split in splits:  # workers may send them in any order
            reading = readings[split]
            status = "ok" if math.isfinite(reading.loss) else "nonfinite"
            error = math.nan if reading.error is None else reading.error
            mark = names.get(place, "")
            rows.append((frame.draw, place.a, b, place in grid, mark, split, reading.loss, error, status))
    return rows


def barriers(table: pd.DataFrame, splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the barrier of loss and error on each split of a segment, where they are defined."""
    found: dict[str, dict[str, Any]] = {}
    for split in splits:
        rows = table[table["split"] == split].sort_values("a")
        found[split] = {of: barrier(rows["a"].tolist(), rows[of].tolist()) for of in ("loss", "error")}
    return found
