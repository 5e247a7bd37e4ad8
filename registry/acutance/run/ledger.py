"""The ledger of a run: keys, what is known, what is missing, what is finished. It alone reads and writes values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from acutance.errors import UserError
from acutance.measure import Estimate, Status
from acutance.run.members import Member, PlannedCell
from acutance.run.points import MARK, Preprocessed
from acutance.run.rows import Attempt, CellRow, CellState, PartRow
from acutance.run.standing import Identity
from acutance.run.store import Store
from acutance.study.config import Study
from acutance.study.targets import MeasureTarget, SplitTarget, Target

Rerun = Literal["missing", "failed", "all"]


class Ledger:
    """What is known of a study's models and cells, and what is not.

    Args:
        study: whose cells they are.
        store: where they lie; all that is learned is written to it.
        rerun: what counts as not known: ``missing`` cells, also the ``failed`` ones, or ``all`` but this run's own.

    Attributes:
        fresh: keys of the cells that were finished since the store was opened.
        run: number of the run that is under way; 0 before it begins.
        on_stored: called with each cell that is finished, once it is stored.
    """

    def __init__(self, study: Study, store: Store, rerun: Rerun = "missing") -> None:
        self.study, self.rerun = study, rerun
        self.on_stored: Callable[[Member, PlannedCell, Estimate], None] = lambda *_: None
        self.fresh: set[str] = set()
        self.run = 0
        self._store = store
        self._done = store.cells()
        self._parts = store.parts()
        self._models, self._facts = store.models(), store.facts()

    # -- the run ------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> Sequence[str]:
        """What a reader should know of the store."""
        return self._store.notes

    def environment_before(self) -> Mapping[str, Any]:
        """Return what the run before this one was computed with; nothing where there was none."""
        return self._store.environment() or {}

    def begin(self, environment: Mapping[str, Any]) -> None:
        """Write down that a run of the study begins, and where."""
        self.run = self._store.start_run(self.study.resolved, environment)

    def end(self, state: Literal["done", "failed", "error", "interrupted"]) -> None:
        """Write down how the run ended."""
        self._store.end_run(self.run, state)

    def require_place(self) -> None:
        """See that the store is still where it was.

        Raises:
            UserError: when its folder or its file is gone.
        """
        self._store.require_place()

    # -- models -------------------------------------------------------------------------------------------------

    def recognise(self, member: Member, asked: frozenset[str]) -> bool:
        """Give a model the identity that it had when it was last loaded, if its file is the one that was hashed then.

        Initial weights are known with it: they belong to the training whose result is the file.

        Args:
            member: a model of the study.
            asked: what must be known of its pool too, ``initial_weights`` and ``update``.
        """
        stored, identity = self._models.get(member.name), self._recorded(member)
        if stored is None or identity is None or not member.source or stored[1] != member.file:
            return False
        if not identity.knows(asked):
            return False
        self.identify(member, identity)
        return True

    def identify(self, member: Member, identity: Identity) -> None:
        """Give a model its identity, and store it with the model's description as it is now."""
        member.identify(identity)
        self._store.put_model(
            *member.name, identity.key, member.file, member.description, identity.parameters, member.facts
        )

    def recall(self, member: Member) -> None:
        """Give a model what is stored of it, whatever its file is now: for tables of what is stored.

        Raises:
            KeyError: for a model that the store does not have.
        """
        if (identity := self._recorded(member)) is None:
            raise KeyError(member.label)
        member.identify(identity)
        facts = self._facts.get("/".join(member.name), {})
        member.remember_log(facts.get("log", ""))
        if (points := facts.get("points")) is not None:
            member.set_points(Preprocessed.recorded(points, self._store.points() or {}))

    def _recorded(self, member: Member) -> Identity | None:
        """Return the identity that the store has of a model, None where it has none."""
        stored = self._models.get(member.name)
        if stored is None:
            return None
        key, _, parameters = stored
        facts = self._facts.get("/".join(member.name), {})
        return Identity(key, parameters, facts.get("initial"), facts.get("update"))

    def put_points(self, record: Mapping[str, Sequence[str]], preprocessed: Iterable[Preprocessed]) -> None:
        """Store what the points of this run were, also as models see them."""
        # Points as models see them that are no part of this run stay: a later run may have these models again.
        before = {name: digests for name, digests in (self._store.points() or {}).items() if MARK in name}
        now = {name: digests for points in preprocessed for name, digests in points.record.items()}
        self._store.put_points({**before, **record, **now})

    # -- values -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many cells have a value or a reason for having none."""
        return len(self._done)

    def of(self, member: Member, cell: PlannedCell) -> Estimate | None:
        """Return the value of a cell for a model, or None where there is none yet."""
        state = None if member.key is None else self._done.get(cell.key(self.study, member))
        return None if state is None else state.estimate

    def target(self, member: Member, target: Target, cells: Sequence[PlannedCell]) -> float | None:
        """Return the value of a target for a model, or None when a cell it needs has none.

        Args:
            member: the model.
            target: what is asked for.
            cells: those that targets are measured in, and the study's own.
        """
        if isinstance(target, MeasureTarget):
            return self._measured(member, [c for c in cells if target.asks_for(c.planned)])
        if not isinstance(target, SplitTarget):
            return target.known(member.attributes, member.entry.targets)
        values = []
        for _, measure, split in target.terms:
            cell = next(c for c in cells if (c.planned.item.name, c.split) == (measure, split))
            estimate = self.of(member, cell)
            if estimate is None or estimate.status is not Status.OK:
                return None
            values.append(estimate.value)
        return target.of(values)

    def _measured(self, member: Member, cells: Sequence[PlannedCell]) -> float | None:
        """Return the mean over repetitions, or None where one has no value that can be trusted."""
        estimates = [self.of(member, cell) for cell in cells]
        values = [e.value for e in estimates if e is not None and e.status is Status.OK]
        return math.fsum(values) / len(values) if values and len(values) == len(estimates) else None

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
                    self._put(member, [cell], [self._finished(member, cell)])
                    continue
            missing.append((i, batches))
        return missing

    def _is_done(self, cell: PlannedCell, key: str) -> bool:
        """Return whether a cell has a result that need not be computed again.

        Raises:
            UserError: when a default of its measure has changed since, but not the measure's version.
        """
        if self.rerun == "all" and key not in self.fresh:
            return False
        state = self._done.get(key)
        if state is None or (state.failed and self.rerun == "failed" and key not in self.fresh):
            return False
        spec = cell.planned.spec.full()
        changed = [name for name, value in state.spec.items() if name in spec and spec[name] != value]
        if changed:
            raise UserError(
                f"the default of '{changed[0]}' of measure '{cell.planned.item.id}' has changed since the stored "
                "results were computed, but the measure's version has not",
                "its author must raise the version; use another --out meanwhile",
            )
        return True

    def store_parts(
        self, member: Member, batch: int, values: Iterable[tuple[PlannedCell, Estimate]],
        completed: Iterable[PlannedCell], attempt: Attempt,
    ) -> None:  # fmt: skip
        """Store the values of one family on one batch, and the cells that are complete with them, in one transaction.

        Args:
            member: the model.
            batch: index of the set of points.
            values: of the cells.
            completed: cells of which this was the last part.
            attempt: what it took.
        """
        rows = []
        for cell, estimate in values:
            part, whole = cell.part_key(self.study, member, batch), cell.key(self.study, member)
            rows.append(PartRow(part, whole, batch, estimate))
            self._parts[part] = estimate
        cells = list(completed)
        finished = [self._finished(member, cell) for cell in cells]
        self._store.put_parts(rows, attempt, finished)
        self._announce(member, cells, finished)

    def fail(self, member: Member, cells: Iterable[PlannedCell], message: str) -> None:
        """Store that cells could not be computed, and why."""
        failed, cells = Estimate.without_value(Status.FAILED, message), list(cells)
        self._put(member, cells, [self._record(member, cell, failed) for cell in cells])

    def decline(self, member: Member, cells: Iterable[PlannedCell], message: str) -> None:
        """Store that cells are not defined for a model, and why."""
        absent, cells = Estimate.without_value(Status.UNSUPPORTED, message), list(cells)
        self._put(member, cells, [self._record(member, cell, absent) for cell in cells])

    def _put(self, member: Member, cells: Sequence[PlannedCell], finished: Sequence[tuple[CellRow, Estimate]]) -> None:
        self._store.put_cells(finished)
        self._announce(member, cells, finished)

    def _announce(
        self, member: Member, cells: Sequence[PlannedCell], finished: Sequence[tuple[CellRow, Estimate]]
    ) -> None:
        with ExitStack() as stack:  # all that is stored is announced, also behind a signal that ends the run meanwhile
            for cell, (_, estimate) in reversed(list(zip(cells, finished, strict=True))):
                stack.callback(self.on_stored, member, cell, estimate)

    def cost(self) -> dict[str, float]:
        """Return the work of all runs: seconds of computation and passes in examples."""
        return self._store.cost()

    def _finished(self, member: Member, cell: PlannedCell) -> tuple[CellRow, Estimate]:
        """Record a cell as the mean of its parts, which are all there; return the row and the value to store."""
        keys = [cell.part_key(self.study, member, b) for b in range(len(cell.digests))]
        row = self._record(member, cell, Estimate.mean([self._parts[key] for key in keys]))
        self._parts.drop(keys)
        return row

    def _record(self, member: Member, cell: PlannedCell, estimate: Estimate) -> tuple[CellRow, Estimate]:
        """Keep the value of a cell in memory as one of this run; return the row and the value to store."""
        row = cell.row(self.study, member)
        self._done[row.key] = CellState(estimate.status is Status.FAILED, dict(row.spec), estimate)
        self.fresh.add(row.key)
        return row, estimate
