"""Models that are compared with each other, those that agree in ``within``, and the stage of a run that does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from acutance.errors import some
from acutance.run.executors import Executor
from acutance.run.jobs import Choice, Compare, Compared, Comparison, Failed, Late, plain
from acutance.run.rows import Attempt
from acutance.run.tasks import Task, outcomes
from acutance.spec import joint
from acutance.study.config import Study
from acutance.system.progress import Reporter

if TYPE_CHECKING:
    from acutance.run.ledger import Ledger
    from acutance.run.members import Member, PlannedCell


@dataclass(frozen=True, eq=False)
class Level:
    """The models that agree in what a study names under ``within``.

    Attributes:
        members: all that are compared, in the order of their keys: that of their pools says nothing.
        within: in what they agree.
    """

    members: tuple[Member, ...]
    within: tuple[str, ...]

    @property
    def alone(self) -> str:
        """The sentence that says why nothing can be compared; empty where there are two models or more."""
        if len(self.members) > 1:
            return ""
        agreeing = f" that agrees with it in {' and '.join(self.within)}" if self.within else ""
        return f"no other model of the study is compared{agreeing}: a measure of several models needs two"

    @cached_property
    def runs(self) -> dict[Member, str]:
        """The training run of each model, by a name that no other run has; empty where its pool names none."""
        numbers: dict[int, int] = {}
        for member in self.members:
            numbers.setdefault(id(member.pool), len(numbers) + 1)
        named = {(member.entry.run, id(member.pool)) for member in self.members if member.entry.run}
        # Two pools may call runs of their own the same.
        apart = len({run for run, _ in named}) < len(named)
        return {
            member: f"{numbers[id(member.pool)]}/{member.entry.run}" if apart and member.entry.run else member.entry.run
            for member in self.members
        }

    @cached_property
    def _checkpoints(self) -> dict[str, str]:
        """Digest of the steps and keys of all checkpoints of a run, by its name."""
        found: dict[str, list[str]] = {}
        for member in self.members:
            found.setdefault(self.runs[member], []).append(f"{member.entry.step}:{member.key}")
        return {run: joint(sorted(places)) if run else "" for run, places in found.items()}

    def place(self, member: Member) -> list[str]:
        """Return what says where on its training run a model is, and which other checkpoints of it there are."""
        return [str(member.entry.step), self._checkpoints[self.runs[member]]]


def set_levels(study: Study, members: Iterable[Member]) -> list[Level]:
    """Let every model that is compared know its level, and return the levels.

    Args:
        study: whose ``within`` it is.
        members: all models, once it is known which of them are compared.
    """
    within = tuple(study.file.within)
    found: dict[tuple[str, ...], list[Member]] = {}
    for member in members:
        if member.compared and member.key is not None:
            found.setdefault(tuple(_agreed(member, name) for name in within), []).append(member)
        else:
            member.join(None)
    levels = [Level(tuple(sorted(several, key=lambda m: (str(m.key), m.label))), within) for several in found.values()]
    for level in levels:
        for member in level.members:
            member.join(level)
    return levels


def sizes(study: Study, members: Iterable[Member]) -> list[int]:
    """Return how many models each level would have if all are compared, before any has been opened."""
    return list(Counter(tuple(_agreed(member, name) for name in study.file.within) for member in members).values())


def _agreed(member: Member, name: str) -> str:
    """Return the value of a model under a name of ``within``, as correlations tell levels apart."""
    from acutance.analysis.tables import label_text

    columns = {
        "model": member.label,
        "pool": member.pool.item.name,
        "architecture": member.entry.architecture,
        "train_set": member.entry.train_set,
        "parameters": member.identity.parameters if member.identity else 0,
    }
    return label_text(columns[name] if name in columns else member.attributes.get(name))


@dataclass(frozen=True)
class Comparisons:
    """The stage of a run in which models are compared, one job a level.

    Attributes:
        study: the study.
        ledger: what is known.
        executor: which runs jobs.
        reporter: told of progress.
        device: where models are opened.
        asked: what measures need of pools.
        outputs: folder where outputs of models are kept.
        on_outcome: told of each outcome.
    """

    study: Study
    ledger: Ledger
    executor: Executor[Any]
    reporter: Reporter
    device: str
    asked: tuple[str, ...]
    outputs: str
    on_outcome: Callable[[Any], None]

    def compute(self, levels: Sequence[Level], cells: Sequence[PlannedCell], examples: Callable[..., int]) -> None:
        """Compute what is missing of these cells for the models of these levels.

        Args:
            levels: from ``set_levels``.
            cells: of measures that compare models.
            examples: how many there are by split and scope.
        """
        work = [(level, missing) for level in levels if (missing := self._missing(level, cells))]
        for level, missing in work:
            for index in missing if level.alone else ():
                for member in missing[index]:
                    self.ledger.decline(member, [cells[index]], level.alone)
        work = [(level, missing) for level, missing in work if not level.alone]
        if not work:
            return

        def units(level: Level, index: int) -> float:
            cell, models = cells[index], len(level.members)
            return models * cell.cost(examples(cell.split, cell.scope), models).units

        costs = [sum(units(level, i) for i in missing) for level, missing in work]
        self.reporter.stage(
            "comparing models", sum(costs) or len(work), sum(len(m) for _, missing in work for m in missing.values())
        )
        tasks = [
            Task.of(level.members[0], self._job(str(n), level, [cells[i].job(i, [0]) for i in missing], cost))
            for n, ((level, missing), cost) in enumerate(zip(work, costs, strict=True))
        ]
        by_job = {task.job.id: pair for task, pair in zip(tasks, work, strict=True)}
        for task, outcome in outcomes(self.executor, sorted(tasks, key=lambda t: -t.job.cost), self.reporter.say):
            level, missing = by_job[outcome.job]
            match outcome:
                case Comparison():
                    index = outcome.parts[0].cell
                    task.done(index, 0)
                    self._store(level, missing[index], cells[index], outcome)
                    self.reporter.advance(units(level, index) if sum(costs) else 1 / len(missing), len(missing[index]))
                case Late() | Failed():
                    dropped = task.drop(outcome.cells if isinstance(outcome, Late) else None)
                    self._fail(missing, [(i, cells[i]) for i in dropped], outcome.message)
            self.on_outcome(plain(outcome))

    def _missing(self, level: Level, cells: Sequence[PlannedCell]) -> dict[int, list[Member]]:
        """Return the models that have no value, by the index of the cell."""
        missing: dict[int, list[Member]] = {}
        for member in level.members:
            for index, _ in self.ledger.missing(member, cells):
                missing.setdefault(index, []).append(member)
        return dict(sorted(missing.items()))

    def _job(self, name: str, level: Level, cells: Sequence[Any], cost: float) -> Compare:
        models = tuple(
            Compared(pool=Choice.of(m.pool), entry=m.entry, name=m.label, key=str(m.key), run=level.runs[m])
            for m in level.members
        )
        return Compare(
            id=name, models=models, dataset=Choice.of(self.study.dataset), surface=self.study.surface,
            seed=self.study.seed, device=self.device, asked=self.asked, announce=self.executor.announced,
            workers=self.executor.workers if self.device == "cpu" else 1, cost=cost, cells=tuple(cells),
            outputs=self.outputs,
        )  # fmt: skip

    def _store(self, level: Level, wanted: Sequence[Member], cell: PlannedCell, outcome: Comparison) -> None:
        """Store the values of a cell for the models that had none; each takes its share of the work."""
        share, failures = 1 / len(level.members), dict[str, None]()
        forwards, backwards, hvps = (work * share for work in outcome.cost)
        for member, part in zip(level.members, outcome.parts, strict=True):
            if member not in wanted:
                continue
            attempt = Attempt(
                self.ledger.run, str(member.key), outcome.measure, outcome.split, 0, 1, outcome.device,
                outcome.seconds * share, forwards, backwards, hvps,
            )  # fmt: skip
            self.ledger.store_parts(member, 0, [(cell, part.estimate)], [cell], attempt)
            if part.status == "failed":
                failures[part.message] = None
        for message in failures:
            self.reporter.say(f"{cell.planned.item.name}: {message}")

    def _fail(self, missing: dict[int, list[Member]], dropped: Sequence[tuple[int, PlannedCell]], message: str) -> None:
        """Store that cells could not be computed for any model of a level."""
        names = some(sorted({cell.planned.item.name for _, cell in dropped}))
        self.reporter.say(f"{names}: {message}")
        for index, cell in dropped:
            for member in missing[index]:
                self.ledger.fail(member, [cell], message)
