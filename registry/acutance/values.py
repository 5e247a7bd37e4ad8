"""The values of a study's cells: those its store holds, and those that a run adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from acutance.config import Study
from acutance.errors import UserError
from acutance.measure import Estimate, Status
from acutance.members import Member, PlannedCell
from acutance.run.rows import CellRow, CellState, PartRow
from acutance.store import Store
from acutance.targets import Target

Rerun = Literal["missing", "failed", "all"]


class Values:
    """What is known of a study's cells, and what is not.

    Args:
        study: whose cells they are.
        store: where they lie; finished cells are written to it.
        rerun: what counts as not known: ``missing`` cells, also the ``failed`` ones, or ``all`` but this run's own.

    Attributes:
        fresh: keys of the cells that were finished since the store was opened.
    """

    def __init__(self, study: Study, store: Store, rerun: Rerun = "missing") -> None:
        self.study, self.store, self.rerun = study, store, rerun
        self.fresh: set[str] = set()
        self._done = store.cells()
        self._parts = store.parts()

    def __len__(self) -> int:
        """How many cells have a value or a reason for having none."""
        return len(self._done)

    def of(self, member: Member, cell: PlannedCell) -> Estimate | None:
        """Return the value of a cell for a model, or None where there is none yet."""
        found = None if member.key is None else self._done.get(cell.key(self.study, member))
        return None if found is None else found.estimate

    def target(self, member: Member, target: Target, cells: Sequence[PlannedCell]) -> float | None:
        """Return the value of a target for a model, or None when a cell it needs has none.

        Args:
            member: the model.
            target: what is asked for.
            cells: those that targets are measured in, and the study's own.
        """
        if target.measure:
            return self._measured(member, [c for c in cells if target.asks_for(c.planned)])
        if not target.terms:
            return target.known(member.attributes, member.entry.targets)
        total = 0.0
        for sign, measure, split in target.terms:
            cell = next(c for c in cells if (c.planned.item.name, c.split) == (measure, split))
            found = self.of(member, cell)
            if found is None or found.status is not Status.OK:
                return None
            total += sign * found.value
        return total

    def _measured(self, member: Member, cells: Sequence[PlannedCell]) -> float | None:
        """Return the mean over repetitions, or None where one has no value that can be trusted."""
        found = [self.of(member, cell) for cell in cells]
        values = [e.value for e in found if e is not None and e.status is Status.OK]
        return math.fsum(values) / len(values) if values and len(values) == len(found) else None

    def missing(self, member: Member, cells: Sequence[PlannedCell]) -> list[tuple[int, list[int]]]:
        """Return (index of the cell, batches without a value) for what must be computed.

        A cell whose parts are all there, from runs with other batches, is finished on the way.

        Raises:
            UserError: when a default of a measure has changed since a value was stored, but not its version.
        """
        missing = []
        for i, cell in enumerate(cells):
            batches = list(range(len(cell.digests)))
            if member.key is not None:
                if self._is_done(cell, cell.key(self.study, member)):
                    continue
                if self.rerun == "missing":
                    batches = [b for b in batches if cell.part_key(self.study, member, b) not in self._parts]
                if not batches:
                    self.store.put_cells([self.finish(member, cell)])
                    continue
            missing.append((i, batches))
        return missing

    def _is_done(self, cell: PlannedCell, key: str) -> bool:
        if self.rerun == "all" and key not in self.fresh:
            return False
        found = self._done.get(key)
        if found is None or (found.failed and self.rerun == "failed" and key not in self.fresh):
            return False
        spec = cell.planned.spec.full()
        changed = [name for name, value in found.spec.items() if name in spec and spec[name] != value]
        if changed:
            raise UserError(
                f"the default of '{changed[0]}' of measure '{cell.planned.item.id}' has changed since the stored "
                "results were computed, but the measure's version has not",
                "its author must raise the version; use another --out meanwhile",
            )
        return True

    def take(self, member: Member, cell: PlannedCell, batch: int, estimate: Estimate) -> PartRow:
        """Know a part, and return the row to store."""
        row = PartRow(
            cell.part_key(self.study, member, batch), cell.key(self.study, member), batch, estimate
        )  # fmt: skip
        self._parts[row.key] = estimate
        return row

    def finish(self, member: Member, cell: PlannedCell) -> tuple[CellRow, Estimate]:
        """Know a cell by the mean of its parts, which are all there; return the row to store."""
        keys = [cell.part_key(self.study, member, b) for b in range(len(cell.digests))]
        found = self._know(member, cell, Estimate.mean([self._parts[key] for key in keys]))
        self._parts.drop(keys)
        return found

    def fail(self, member: Member, cell: PlannedCell, message: str) -> tuple[CellRow, Estimate]:
        """Know that a cell could not be computed, and why; return the row to store."""
        return self._know(member, cell, Estimate.without_value(Status.FAILED, message))

    def _know(self, member: Member, cell: PlannedCell, estimate: Estimate) -> tuple[CellRow, Estimate]:
        row = cell.row(self.study, member)
        self._done[row.key] = CellState(estimate.status is Status.FAILED, dict(row.spec), estimate)
        self.fresh.add(row.key)
        return row, estimate
