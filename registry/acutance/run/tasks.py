"""Jobs on their way: which model each is of, what of it is not done yet, and what becomes of it when a worker dies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from acutance.run.executors import Executor
from acutance.run.jobs import Begun, Build, Failed, Job, Late, Lost, Outcome, read_outcome, write
from acutance.run.members import Member

RETRIES = 2  # how often a job goes to another worker after its worker died
TRY_HERE = "executor serial shows where"  # for a worker that crashed


JobT = TypeVar("JobT", bound=Job)


@dataclass
class Task(Generic[JobT]):
    """A job as the driver sees it.

    Attributes:
        member: the model; the first of those that are compared.
        job: what a worker is asked for at first.
        missing: batches without a value, by the index of the cell; what is stored is taken off.
        begun: cells that are in work, where that is told.
        deaths: how many workers died with it.
    """

    member: Member
    job: JobT
    missing: dict[int, list[int]]
    begun: tuple[int, ...] = ()
    deaths: int = 0

    @classmethod
    def of(cls, member: Member, job: JobT) -> Task[JobT]:
        """Return a job that nobody has begun."""
        cells = () if isinstance(job, Build) else job.cells
        return cls(member, job, {cell.index: list(cell.batches) for cell in cells})

    @property
    def text(self) -> str:
        """The job for a worker: what is still missing of it."""
        job: Job = self.job
        if isinstance(job, Build):
            return write(job)
        remaining = [replace(cell, batches=tuple(self.missing[cell.index])) for cell in job.cells]
        return write(replace(job, cells=tuple(cell for cell in remaining if cell.batches)))

    def done(self, cell: int, batch: int) -> bool:
        """Take a batch of a cell off, and return whether it was the last one."""
        self.missing[cell].remove(batch)
        return not self.missing[cell]

    def drop(self, among: Iterable[int] | None = None) -> list[int]:
        """Take cells off that are not done, of some or of all, and return their indices."""
        dropped = [cell for cell, batches in self.missing.items() if batches and (among is None or cell in among)]
        for cell in dropped:
            self.missing[cell].clear()
        return dropped


def outcomes(
    executor: Executor[Any], tasks: Sequence[Task[JobT]], say: Callable[[str], None]
) -> Iterator[tuple[Task[JobT], Outcome]]:
    """Yield what comes back of each task.

    A job whose worker died goes to another one, a bounded number of times, and then counts as failed. One whose worker
    was ended because it was late goes to another one too: the caller drops what was late, so it is shorter each time.

    Args:
        executor: which runs them.
        tasks: the longest first.
        say: told of jobs that start again.
    """
    by_id = {task.job.id: task for task in tasks}
    waiting = list(tasks)
    while waiting:
        again: list[Task[JobT]] = []
        for text in executor.run(task.text for task in waiting):
            outcome = read_outcome(text)
            task = by_id[outcome.job]
            if isinstance(outcome, Begun):
                task.begun = outcome.cells
            elif isinstance(outcome, Late) and task.begun:
                yield task, replace(outcome, cells=task.begun)
                again.append(task)
            elif not isinstance(outcome, Lost | Late):
                yield task, outcome
            elif task.deaths < RETRIES:
                task.deaths += 1
                say(f"{outcome.message}; its job starts again")
                again.append(task)
            else:
                yield task, Failed(job=outcome.job, message=f"{outcome.message} ({_hint(outcome.message)})")
        waiting = again


def _hint(message: str) -> str:
    killed = "SIGKILL" in message  # what a system does where memory ends
    return "out of memory? try fewer workers or a smaller surface.microbatch" if killed else TRY_HERE
