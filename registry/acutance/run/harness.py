"""The driver: make what is missing, measure targets, admit, measure, and write down everything as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, some
from acutance.io.remote import is_remote
from acutance.io.written import growing
from acutance.plugins import catalog
from acutance.run.admission import admit, admitted, and_others
from acutance.run.described import run_html, run_line
from acutance.run.directory import PAGE, RunDirectory, own_names
from acutance.run.executors import Executor
from acutance.run.hooks import Hook
from acutance.run.jobs import Build, Choice, Evaluate, Failed, Late, Model, Note, Opened, Parts, plain
from acutance.run.ledger import Ledger, Rerun
from acutance.run.levels import Comparisons, set_levels
from acutance.run.members import Member, PlannedCell, measure_cells, members, target_cells
from acutance.run.points import close_points, open_points, preprocess
from acutance.run.rows import Attempt
from acutance.run.sinks import Sinks, files_of
from acutance.run.standing import OF_POOLS, Identity, Standing
from acutance.run.store import Store
from acutance.run.tasks import Task, outcomes
from acutance.run.value_rows import value_row
from acutance.study.attributes import Attributes, join, require
from acutance.study.config import Study
from acutance.system.ending import STORED, Terminated, in_order
from acutance.system.environment import changed_files, environment
from acutance.system.progress import Reporter, Silent

if TYPE_CHECKING:
    import pandas as pd

    from acutance.data.pointsets import PointSets


@dataclass(repr=False)
class Run:
    """A finished run: its folder and its tables.

    Attributes:
        directory: where everything was written.
        models: one row a model: attributes, targets, whether it was admitted and why not.
        results: one row a cell.
        correlations: one row a definition, target, level of ``within`` and group.
        failed: number of cells without a value for a reason other than "unsupported".
        computed: number of cells computed by this call; 0 when everything was there.
    """

    directory: Path
    models: pd.DataFrame
    results: pd.DataFrame
    correlations: pd.DataFrame
    failed: int
    computed: int

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.directory / PAGE

    def __repr__(self) -> str:
        return run_line(self)

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(repr(self))

    def _repr_html_(self) -> str:
        return run_html(self)


def run_study(
    study: Study,
    out: str | Path | None = None,
    *,
    device: str | None = None,
    rerun: Rerun = "missing",
    limit: int | None = None,
    reporter: Reporter | None = None,
    report: bool = True,
    attributes: Attributes | None = None,
) -> Run:
    """Run or resume a study and write its folder.

    Args:
        study: from ``load_config``.
        out: run directory, ``runs/<name>`` by default.
        device: where models are evaluated; the GPU when there is one.
        rerun: ``missing`` computes what has no row, ``failed`` also what failed, ``all`` everything.
        limit: at most this many models of each pool.
        reporter: told of progress.
        report: whether to draw figures and write the page.
        attributes: more attributes of the models, as ``acutance.study.attributes.join`` takes them.

    Raises:
        UserError: for what a user can mend; before anything is written for a file in ``out`` that bears the name of a
            run's, and that no run wrote.
        KeyboardInterrupt, Terminated: by Ctrl-C, SIGTERM and SIGHUP, after everything computed so far has been stored.
    """
    given = RunDirectory(Path(out) if out is not None else Path("runs") / study.name)
    study.executor.item.target(study.executor.spec).check(device)
    sinks = [(choice.item, choice.spec) for choice in study.sinks]
    given.take(ours=given.holds_run, names=[*own_names(), *files_of(sinks)])
    directory = RunDirectory(given.path.absolute())  # wherever a plugin goes from here
    store = Store(directory.store)
    with closing(store), in_order():
        driver = Driver(study, Ledger(study, store, rerun), device, limit, reporter or Silent(), attributes)
        run = driver.run(directory, report)
    return replace(run, directory=given.path) if given.path.absolute() == directory.path else run


class Driver:
    """One run of one study."""

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        device: str | None,
        limit: int | None,
        reporter: Reporter,
        attributes: Attributes | None = None,
    ) -> None:
        self.study, self.ledger, self.reporter = study, ledger, reporter
        self.plugins = catalog()
        self.executor_choice = study.executor
        self.members = members(study, limit)
        self.notes = join(self.members, attributes) if attributes is not None else []
        require(study, self.members)
        self.device = device
        self.on_outcome = Hook("on_outcome", self._say_note)
        self.printed: set[str] = set()
        self.alike: dict[str, list[Member]] = {}  # models with the same message in this stage, by the message
        self.asked: frozenset[str] = frozenset()  # of pools, beside the models
        self.outputs = ""  # folder where outputs of models are kept
        self.splits_to_check: list[str] = []  # those that a model must take before anything is measured
        self.misfits: Counter[str] = Counter()

    # -- the whole ----------------------------------------------------------------------------------

    def run(self, directory: RunDirectory, report: bool) -> Run:
        """Run all stages and write the folder; everything computed is in the store before an exception leaves."""
        from acutance.run.outputs import write_outputs

        study, self.outputs = self.study, str(directory.outputs)
        env = environment(self.plugins, study.plugin_files)
        self.notes += changed_files(self.ledger.environment_before(), env)
        self.ledger.begin(env)
        directory.put_study(study.resolved, env)
        for note in (*study.warnings, *self.ledger.notes, *self.notes):
            self.reporter.say(f"note: {note}")
        place = str(directory.path)
        Hook("on_run_start", self._say_note).tell(config=study.resolved, directory=place)
        executor: Executor[Any] = self.executor_choice.item.target(self.executor_choice.spec)
        outlets = [(choice.item, choice.spec) for choice in study.sinks]
        sinks = Sinks(outlets, directory.path, study.resolved, self._say_note)
        self.ledger.on_stored = lambda *stored: sinks.write(value_row(self.plugins, *stored))
        try:
            with growing(directory.path, files_of(outlets)), sinks, executor:
                self._build(executor)
                sets = self._open_points()
                targets, cells = target_cells(study, self.plugins, sets), measure_cells(study, sets)
                self._preprocess(sets)
                on_points = [cell for cell in [*targets, *cells] if cell.scope != "weights"]
                looked_at = [split for cell in on_points for split in (cell.split, cell.validation[0]) if split]
                self.splits_to_check = list(dict.fromkeys(looked_at))
                self.asked = OF_POOLS & frozenset().union(*(cell.needs for cell in cells))
                if any("trajectory" in cell.needs for cell in cells):
                    for member in self.members:
                        _ = member.log_digest  # before models are stored: with it their values are known again
                self._recognise(executor)
                self._compute(executor, sets, self.members, targets, "targets")
                chosen = admit(self.members, self.ledger, targets)
                if study.admit:
                    self.reporter.say(f"admitted {len(chosen)} of {len(self.members)} models")
                apart = [cell for cell in cells if cell.planned.level != "pool"]
                self._compute(executor, sets, chosen, apart, "measures")
                self._compare(executor, sets, [cell for cell in cells if cell.planned.level == "pool"])
            admitted(self.members)  # where targets are given, models are opened for the measures alone
            run = write_outputs(self.ledger, self.members, directory, targets, cells, report, self.reporter)
        except BaseException as error:
            ended = isinstance(error, KeyboardInterrupt | Terminated)
            if isinstance(error, KeyboardInterrupt | Terminated | OSError):
                error.add_note(STORED)
            with suppress(UserError):  # a store that cannot be written must not hide what went wrong
                self.ledger.end("interrupted" if ended else "error")
            if isinstance(error, OSError | UserError):
                self.ledger.require_place()  # the better sentence, where files are missing with their folder
            raise
        finally:
            close_points()
        self.ledger.end("failed" if run.failed else "done")
        summary = {"failed": run.failed, "computed": run.computed}
        Hook("on_run_end", self._say_note).tell(directory=place, summary=summary)
        return run

    def _open_points(self) -> PointSets:
        sets = open_points(Choice.of(self.study.dataset), self.study.surface, self.study.seed)
        sets.reporter = self.reporter
        return sets

    def _preprocess(self, sets: PointSets) -> None:
        """Set what each model sees of the points where its pool preprocesses them, and store what the points were."""
        sound = [member for member in self.members if member.usable]
        preprocessed = preprocess(sound, sets)
        for member in sound:
            if not member.usable:
                self._report(member, member.reason)
        self._report_alike()
        self.ledger.put_points(sets.record, preprocessed)

    def _device(self) -> str:
        if self.device is None:
            from acutance.model.functional import default_device

            self.device = default_device()
        return self.device

    # -- making models ------------------------------------------------------------------------------

    def _build(self, executor: Executor[Any]) -> None:
        """Make what pools train on first use, the longest first."""
        waiting: list[tuple[float, Member]] = []
        for pool in self.study.pools:
            instance = pool.item.target()
            members_of_pool = {m.entry.id: m for m in self.members if m.pool is pool}
            missing = instance.missing([m.entry for m in members_of_pool.values()], pool.spec)
            waiting += [(instance.build_cost(entry, pool.spec), members_of_pool[entry.id]) for entry in missing]
        if not waiting:
            return
        waiting.sort(key=lambda pair: -pair[0])
        self.reporter.stage("training models", sum(cost for cost, _ in waiting), len(waiting))
        tasks = [
            Task.of(member, Build(id=str(i), pool=Choice.of(member.pool), entry=member.entry, cost=cost))
            for i, (cost, member) in enumerate(waiting)
        ]
        for task, outcome in outcomes(executor, tasks, self.reporter.say):
            if isinstance(outcome, Failed):
                task.member.leave_out(Standing.BROKEN, f"could not be made: {outcome.message}")
                self._report(task.member, task.member.reason)
            self.reporter.advance(task.job.cost, 1)
        self._report_alike()

    # -- cells --------------------------------------------------------------------------------------

    def _recognise(self, executor: Executor[Any]) -> None:
        """Learn the key of every model, by its file where it is known, else by loading it."""
        unknown = [
            member
            for member in self.members
            if not self.ledger.recognise(member, self.asked) and member.key is None and member.usable
        ]
        if unknown and self.ledger:
            self._work(executor, [(member, []) for member in unknown], [], "recognising models", lambda _: 1.0)

    def _compute(
        self,
        executor: Executor[Any],
        sets: PointSets,
        chosen: Iterable[Member],
        cells: Sequence[PlannedCell],
        stage: str,
    ) -> None:
        """Compute what is missing of these cells for these models."""
        work = [
            (member, missing) for member in chosen if member.usable and (missing := self.ledger.missing(member, cells))
        ]
        if work:
            self._work(executor, work, cells, stage, lambda c: c.cost(sets.examples(c.split, c.scope)).units)

    def _compare(self, executor: Executor[Any], sets: PointSets, cells: Sequence[PlannedCell]) -> None:
        """Compute what is missing of cells that compare models, once all others are done."""
        if not cells:
            return
        unknown = [member for member in self.members if member.compared and member.key is None]
        if unknown:
            self._work(executor, [(member, []) for member in unknown], [], "recognising models", lambda _: 1.0)
        Comparisons(
            self.study, self.ledger, executor, self.reporter, self._device(), tuple(sorted(self.asked)), self.outputs,
            lambda outcome: self.plugins.manager.hook.on_outcome(outcome=outcome),
        ).compute(set_levels(self.study, self.members), cells, sets.examples)  # fmt: skip

    def _work(
        self,
        executor: Executor[Any],
        work: Sequence[tuple[Member, list[tuple[int, list[int]]]]],
        cells: Sequence[PlannedCell],
        stage: str,
        units: Callable[[PlannedCell], float],
    ) -> None:
        """Send one job a model with (index of the cell, missing batches), and store what comes back."""
        total = sum(units(cells[i]) * len(batches) for _, missing in work for i, batches in missing)
        self.reporter.stage(stage, total or len(work), sum(len(missing) for _, missing in work) or len(work))
        tasks = []
        for i, (member, missing) in enumerate(work):
            job = Evaluate(
                id=str(i), pool=Choice.of(member.pool), entry=member.entry, dataset=Choice.of(self.study.dataset),
                surface=self.study.surface, seed=self.study.seed, device=self._device(),
                asked=tuple(sorted(self.asked)), outputs=self.outputs, announce=executor.announced,
                workers=executor.workers if self._device() == "cpu" else 1,
                cost=sum(units(cells[index]) * len(batches) for index, batches in missing),
                cells=tuple(cells[index].job(index, batches) for index, batches in missing),
            )  # fmt: skip
            tasks.append(Task.of(member, job))
        # The longest first, so that workers end together.
        tasks.sort(key=lambda task: -task.job.cost)
        self._name_next_models(executor, tasks)
        self._check_points_first(tasks)
        for task, outcome in outcomes(executor, tasks, self.reporter.say):
            match outcome:
                case Opened():
                    self._identify(task.member, outcome)
                    if not task.missing:
                        self.reporter.advance(1, 1)
                case Parts():
                    finished = self._store_parts(task, cells, outcome)
                    self.reporter.advance(sum(units(cells[part.cell]) for part in outcome.parts), finished)
                case Note():
                    self._note(task.member, outcome.message)
                case Late():
                    self._late(task, cells, outcome)
                case Failed():
                    self._fail(task, cells, outcome)
            self.on_outcome.tell(outcome=plain(outcome))
        self._report_alike()

    def _name_next_models(self, executor: Executor[Any], tasks: Sequence[Task[Evaluate]]) -> None:
        """Name in each job the model that its worker will most likely get next, where loading it ahead saves time.

        That is where its file comes over a network, or where an accelerator measures and leaves the cores free.
        """
        for task, later in zip(tasks, tasks[executor.workers :], strict=False):
            member = later.member
            waits = self._device() != "cpu" or is_remote(member.entry.path or "")
            if waits and member.pool.item.target.loads_ahead:
                task.job = replace(task.job, next=Model(later.job.pool, later.job.entry))

    def _check_points_first(self, tasks: Sequence[Task[Evaluate]]) -> None:
        """Have two models of each architecture tried on all points before their first cells: see ``_misfit``."""
        checked: Counter[str] = Counter()
        for task in tasks:
            architecture = task.member.entry.architecture
            if task.missing and checked[architecture] < 2:
                task.job = replace(task.job, look=tuple(self.splits_to_check))
                checked[architecture] += 1

    def _misfit(self, member: Member, message: str) -> None:
        """Leave out a model that does not take the points; where none like it does either the study is wrong.

        Raises:
            UserError: for the second model of an architecture, or the last model that is left.
        """
        architecture = member.entry.architecture
        self.misfits[architecture] += 1
        if self.misfits[architecture] > 1 or not any(m.usable for m in self.members if m is not member):
            raise UserError(f"{member.label}: {message}")
        member.leave_out(Standing.BROKEN, message)

    def _report(self, member: Member, message: str, prefix: str = "") -> None:
        """Print a message about a model, once for all models that it holds for in this stage.

        ``_report_alike`` counts the others at the end of the stage.
        """
        alike = self.alike.setdefault(member.general(message), [])
        alike.append(member)
        if len(alike) == 1:
            self.reporter.say(f"{prefix}{member.label}: {message}")

    def _report_alike(self) -> None:
        """Print which messages of this stage hold for further models, and forget them."""
        for alike in self.alike.values():
            if len(alike) > 1:
                self.reporter.say(f"as of {alike[0].label}{and_others(alike)}")
        self.alike.clear()

    def _note(self, member: Member, message: str) -> None:
        about = f"{member.entry.id}: "
        if message.startswith(about):
            self._report(member, message.removeprefix(about), "note: ")
        else:
            self._say_once(f"note: {message}")

    def _say_note(self, sentence: str) -> None:
        self.reporter.say(f"note: {sentence}")

    def _say_once(self, text: str) -> None:
        """Print what holds for many models, once a run."""
        if text not in self.printed:
            self.printed.add(text)
            self.reporter.say(text)

    def _identify(self, member: Member, outcome: Opened) -> None:
        """Store the identity of a model that was loaded, and print the notes on it."""
        for note in outcome.notes:
            self._report(member, note)
        self.ledger.identify(member, Identity(outcome.key, outcome.parameters, outcome.initial, outcome.update))

    def _store_parts(self, task: Task[Evaluate], cells: Sequence[PlannedCell], outcome: Parts) -> int:
        """Store one batch of one family, and return the number of cells that are complete with it."""
        member, done = task.member, [p.cell for p in outcome.parts if task.done(p.cell, outcome.batch)]
        assert member.key is not None
        attempt = Attempt(
            self.ledger.run, member.key, outcome.measure, outcome.split, outcome.batch, len(outcome.parts),
            outcome.device, outcome.seconds, *outcome.cost,
        )  # fmt: skip
        values = [(cells[part.cell], part.estimate) for part in outcome.parts]
        self.ledger.store_parts(member, outcome.batch, values, [cells[index] for index in done], attempt)
        return len(done)

    def _late(self, task: Task[Evaluate], cells: Sequence[PlannedCell], outcome: Late) -> None:
        """Give up the cells that took too long: on other batches they would too."""
        late = [cells[index] for index in task.drop(outcome.cells)]
        names = some(sorted({cell.planned.item.name for cell in late}))
        self._report(task.member, f"{names}: {outcome.message}; the other measures go on")
        self.ledger.fail(task.member, late, outcome.message)

    def _fail(self, task: Task[Evaluate], cells: Sequence[PlannedCell], outcome: Failed) -> None:
        """Store the remaining cells of a failed job as failures with a reason; without a key, leave the model out."""
        member, message = task.member, outcome.message
        if outcome.misfit:
            self._misfit(member, message)
        self._report(member, message)
        if member.usable and member.key is None:
            member.leave_out(Standing.EXCLUDED if outcome.excluded else Standing.BROKEN, message)
        elif member.usable:
            self.ledger.fail(member, [cells[index] for index in task.drop()], message)
