"""A training as a run that grows: every step that is measured is a model of it, in the same store and tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.dataset import Split
from acutance.errors import UserError, in_words, warn
from acutance.io.written import growing
from acutance.measure import Estimate
from acutance.monitor.claim import claimed
from acutance.plugins import catalog, extended
from acutance.pool import Attribute, ModelEntry
from acutance.run.directory import CONFIG, RunDirectory, own_names
from acutance.run.families import Ready, Unit, family_estimates, units
from acutance.run.jobs import Choice
from acutance.run.ledger import Ledger
from acutance.run.members import Member, PlannedCell, measure_cells, target_cells
from acutance.run.points import open_points
from acutance.run.rows import Attempt
from acutance.run.sinks import Sinks, files_of
from acutance.run.standing import Identity
from acutance.run.store import Store
from acutance.run.value_rows import value_row
from acutance.study.config import Study, load_config
from acutance.surface.open_model import OpenModel, Place, Surfaces
from acutance.system.environment import environment
from acutance.workflows.memory import InMemory
from acutance.workflows.stored import write_run

if TYPE_CHECKING:
    from acutance.run.harness import Run
    from acutance.surface.core import Core

Row = Mapping[str, Any]
RESERVED = ("run", "step")  # attributes that every row of a training has


class Record:
    """The store of a training, what is planned on each of its steps, and where rows go.

    Args:
        sections: of the study that the run is one of, without pools and dataset.
        splits: the points, by split.
        out: directory of the run; one that is there goes on.
        run: name of this training among those in the directory.

    Attributes:
        study: what is measured.
        targets, measures: the cells that are planned on each step.
        sets: the points.
        rows: what was measured since it was opened, a row a value, as sinks get them.
        written: when tables were written last, on the monotonic clock.

    Raises:
        UserError: for what a study refuses.
    """

    def __init__(self, sections: Mapping[str, Any], splits: Mapping[str, Split], out: Path, run: str) -> None:
        memory = InMemory({}, {}, {}, splits)
        with extended([memory.pool, memory.dataset]):
            self.study: Study = load_config(
                {
                    **sections,
                    "pools": [{"name": memory.pool.id, "digest": "monitor"}],
                    "dataset": {"name": memory.dataset.id, "digest": memory.points_digest},
                }
            )
            self.sets = open_points(Choice.of(self.study.dataset), self.study.surface, self.study.seed)
        self.run, self._plugins = run, catalog()
        self.targets = target_cells(self.study, self._plugins, self.sets)
        self.measures = measure_cells(self.study, self.sets)
        for cell in self.measures:
            if cell.planned.level == "pool":
                raise UserError(
                    f"measures: '{cell.planned.item.name}' compares models, and one training has one at a time",
                    "save checkpoints, and give them to acutance.study",
                )
        self._begin(out)

    def _begin(self, out: Path) -> None:
        sinks = [(choice.item, choice.spec) for choice in self.study.sinks]
        directory = RunDirectory(out)
        held = directory.holds_run
        directory.take(ours=held, names=[*own_names(), *files_of(sinks)])
        if held and (out / CONFIG).is_file() and (left := _left_out(directory.config(), self.study.resolved)):
            warn(
                f"monitor: {directory.path} has been used with other {', '.join(left)}: its tables leave those values "
                "out from now on (give another out= to keep both)"
            )
        self.directory = RunDirectory(out.absolute())
        self._store = Store(self.directory.store)
        self._ledger = Ledger(self.study, self._store)
        env = environment(self._plugins)
        self._ledger.begin(env)
        self.directory.put_study(self.study.resolved, env)
        self._ledger.put_points(self.sets.record, [])
        self._opened = ExitStack()
        self._opened.callback(self._store.close)
        if not self._opened.enter_context(claimed(self.directory.path / f".{self.run}.lock")):
            warn(
                f"monitor: another training, or a monitor that was not closed, writes run '{self.run}' in "
                f"{self.directory.path} now: their steps take each other's places (give another run=)"
            )
        self._opened.enter_context(growing(self.directory.path, files_of(sinks)))
        self._sinks = Sinks(sinks, self.directory.path, self.study.resolved, warn)
        self._opened.enter_context(self._sinks)
        self._ledger.on_stored = self._announce
        self.rows: list[Row] = []
        self._began = False
        self._looked_at: Mapping[Place, Core] = {}
        self.written = time.monotonic()

    # -- one step -----------------------------------------------------------------------------------------------

    def member(self, step: int, architecture: str, attributes: Mapping[str, Attribute]) -> Member:
        """Return the model of a step; rows of later steps, of a training that broke off there, are replaced."""
        if not self._began:
            self._began = True
            later = self._store.forget_models(self._pool.item.id, self.run, after=step)
            if later:
                warn(
                    f"monitor: {self.directory.path} has {later} later steps of run '{self.run}': this training goes "
                    f"on from step {step}, and its steps take their places (give another run= to keep both)"
                )
        entry = ModelEntry(
            id=f"{self.run}@{step}",
            attributes={"run": self.run, "step": step, **attributes},
            architecture=architecture,
            run=self.run,
            step=step,
        )
        return Member(entry.id, self._pool, entry)

    def begin_again(self) -> None:
        """Take the next step for one that a training goes on from: rows of later ones are replaced."""
        self._began = False

    @property
    def _pool(self) -> Any:
        return self.study.pools[0]

    def identify(self, member: Member, identity: Identity) -> None:
        """Store what the model of a step is."""
        self._ledger.identify(member, identity)

    def fail(self, member: Member, cells: Sequence[PlannedCell], reason: str) -> None:
        """Store that cells of a step could not be computed."""
        self._ledger.fail(member, cells, reason)

    def decline(self, member: Member, cells: Sequence[PlannedCell], reason: str) -> None:
        """Store that some of it is not defined on a step."""
        self._ledger.decline(member, cells, reason)

    def measure(self, opened: OpenModel, member: Member, cells: Sequence[PlannedCell]) -> None:
        """Compute and store what is missing of some cells, and announce all: known ones are of this step too.

        Raises:
            Exception: what stands in the way of all that is left, which is stored as the reason of each.
        """
        missing = {i: set(batches) for i, batches in self._ledger.missing(member, cells)}
        for i, cell in enumerate(cells):
            if i not in missing and (known := self._ledger.of(member, cell)) is not None:
                self._announce(member, cell, known)
        try:
            self._compute(opened, member, cells, missing)
        except Exception as error:
            self.fail(member, [cells[i] for i, batches in missing.items() if batches], in_words(error))
            raise

    def _compute(
        self, opened: OpenModel, member: Member, cells: Sequence[PlannedCell], missing: Mapping[int, set[int]]
    ) -> None:
        assert member.key is not None
        # What a model does with examples is the same at every step of its training.
        surfaces = Surfaces(opened, self.sets, self.study.surface, looked_at=self._looked_at)
        ready = [Ready.of(cells[i].job(i, sorted(batches))) for i, batches in missing.items()]
        at, surface = None, None
        for unit in units(ready):
            if at != (unit.split, unit.scope, unit.batch):
                if at is not None and surface is not None:
                    surfaces.learn(surface, *at)
                at, surface = (unit.split, unit.scope, unit.batch), surfaces.on(unit.split, unit.scope, unit.batch)
            assert surface is not None
            start, before = time.perf_counter(), surface.cost
            estimates = family_estimates(unit, surface, self.study.seed)
            spent = surface.cost - before
            attempt = Attempt(
                self._ledger.run, member.key, unit.measure, unit.split, unit.batch, len(unit.family),
                str(opened.functional.device), time.perf_counter() - start, spent.forwards, spent.backwards, spent.hvps,
            )  # fmt: skip
            self._keep(member, cells, missing, unit, estimates, attempt)
        if at is not None and surface is not None:
            surfaces.learn(surface, *at)
        self._looked_at = surfaces.learned

    def look_anew(self) -> None:
        """Forget what the model does with examples: it is another."""
        self._looked_at = {}

    def _keep(
        self, member: Member, cells: Sequence[PlannedCell], missing: Mapping[int, set[int]], unit: Unit,
        estimates: Sequence[Estimate], attempt: Attempt,
    ) -> None:  # fmt: skip
        values, complete = [], []
        for ready, estimate in zip(unit.family, estimates, strict=True):
            cell = cells[ready.cell.index]
            values.append((cell, estimate))
            missing[ready.cell.index].remove(unit.batch)
            complete += [] if missing[ready.cell.index] else [cell]
        self._ledger.store_parts(member, unit.batch, values, complete, attempt)

    def _announce(self, member: Member, cell: PlannedCell, estimate: Estimate) -> None:
        row = value_row(self._plugins, member, cell, estimate) | {"step": member.entry.step}
        self.rows.append(row)
        self._sinks.write(row)

    # -- tables -------------------------------------------------------------------------------------------------

    def write(self, report: bool) -> Run | None:
        """Write the tables of all trainings in the directory; None while nothing was measured."""
        run = write_run(self._store, self.directory, report)
        self.written = time.monotonic()
        return run

    def close(self, report: bool) -> Run | None:
        """Write tables and page, and release the store."""
        try:
            run = self.write(report)
            self._ledger.end("failed" if run is not None and run.failed else "done")
            return run
        finally:
            self._opened.close()


def _left_out(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what a run was asked for and is no longer, so that tables have no place for its values."""
    found = ["points"] if before.get("dataset") != now["dataset"] else []
    settings = before.get("surface") or {}
    found += [f"surface.{name}" for name, value in now["surface"].items() if settings.get(name) != value]
    found += ["seed"] if before.get("seed") != now["seed"] else []
    gone = [section for section in before.get("measures") or () if section not in now["measures"]]
    return found + (["measures"] if gone else [])
