"""Where jobs run: strings in, strings out.

A job is one JSON text, an outcome another; outcomes stream back as they come. The executors here need
nothing but this machine.
"""

from __future__ import annotations

import os
import queue
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import ClassVar, TypeVar

from pydantic import PositiveFloat, PositiveInt

from acutance.errors import UserError
from acutance.run.jobs import Begun, Late, Lost, id_of, read_outcome, write
from acutance.run.worker import close_data, execute
from acutance.spec import Spec, Specified, SpecT
from acutance.system.child import Child, Receive, Send
from acutance.system.devices import require_device
from acutance.system.memory import keep_freed

SERVE = "acutance.run.executors:serve"  # what worker processes run
FALSE_STARTS = 3  # of a worker one after the other: then none will ever start


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Executor(Specified[SpecT], AbstractContextManager["Executor[SpecT]"]):
    """Runs jobs; a context manager, so that workers end with the run.

    Jobs and outcomes are texts, as ``acutance.run.jobs`` writes and reads them.
    """

    name: ClassVar[str]

    def __init__(self, spec: SpecT | None = None) -> None:
        self.spec: SpecT = spec if spec is not None else self.Spec()  # type: ignore[assignment]

    @property
    def workers(self) -> int:
        """How many jobs run at once."""
        return 1

    @property
    def announced(self) -> bool:
        """Whether workers must say what begins, by an outcome ``Begun``."""
        return False

    @abstractmethod
    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield the outcomes of all jobs as they come, in any order between jobs.

        A worker that dies yields ``Lost``, ``{"kind": "lost", "job": id, "message": ...}``, and is replaced. One that
        is ended because what it began takes too long yields ``Late``.

        Args:
            jobs: the longest first, so that workers end together.
        """

    def check(self, device: str | None) -> None:
        """Refuse settings, and a device, that cannot be had: asked before a run changes anything.

        Args:
            device: what the user asks for; None leaves the choice to the driver.

        Raises:
            UserError: for what is not there.
        """
        if device is not None:
            require_device(device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""


class LimitedSpec(Spec):
    """Settings of an executor that can end its workers."""

    time_limit: PositiveFloat | None = None
    """Seconds that the cells of one measure may take on one m-batch; then their worker is ended and they fail."""


LimitedT = TypeVar("LimitedT", bound=LimitedSpec)


class Limited(Executor[LimitedT]):
    """An executor that ends and replaces a worker whose cells take too long; its workers are ``Watched``."""

    @property
    def announced(self) -> bool:
        """Whether workers must say what begins: where there is a limit to it."""
        return self.spec.time_limit is not None

    def wait_seconds(self, longest: float) -> float:
        """Return how many seconds to wait for outcomes before workers that are late are ended, at most ``longest``."""
        return min(self.spec.time_limit or longest, longest)


class Watched:
    """A worker as its executor sees it: its job, and when it began the cells that it computes now.

    Args:
        limit: seconds that the cells of one measure may take on one m-batch; None where they may take any time.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.job: str | None = None
        self._began: float | None = None  # monotonic seconds, where the worker says when it begins cells

    def note_outcome(self, outcome: str | None) -> None:
        """Take note of an outcome, None at the end of a job."""
        if outcome is None:
            self.job = None
        if self.limit is not None:
            begins = outcome is not None and isinstance(read_outcome(outcome), Begun)
            self._began = time.monotonic() if begins else None

    @property
    def late(self) -> bool:
        """Whether the cells that it computes now take longer than the limit."""
        return self.limit is not None and self._began is not None and time.monotonic() - self._began > self.limit

    def lost(self, message: str) -> str:
        """Take the job off a worker that died; return the outcome that says so."""
        return write(Lost(job=self._without_job(), message=message))

    def given_up(self) -> str:
        """Take the job off a worker that was ended because it was late; return the outcome that says so."""
        message = f"took longer than executor.time_limit, {self.limit or 0:g} s, on one m-batch"
        return write(Late(job=self._without_job(), message=message))

    def _without_job(self) -> str:
        """Take the job off, and return its id."""
        job, self.job, self._began = self.job, None, None
        return "" if job is None else id_of(job)


class SerialSpec(Spec):
    """Settings of the serial executor: none."""

    ABSENT = {
        "time_limit": "serial works in this process, which cannot end what hangs in it; "
        "write executor: {name: processes, workers: 1, time_limit: ...}"
    }


class Serial(Executor[SerialSpec]):
    """One job after the other in this process: the default with one device."""

    name = "serial"

    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield outcomes in order."""
        for job in jobs:
            yield from execute(job)

    def close(self) -> None:
        """Let go of the points and the model that stay open in this process between jobs."""
        close_data()


class ProcessesSpec(LimitedSpec):
    """Settings of the processes executor."""

    workers: PositiveInt | None = None
    """Number of processes; one for each GPU, else one for each core."""


class Processes(Limited[ProcessesSpec]):
    """Jobs in parallel processes on this machine, one for each GPU or core, each core with one thread."""

    name = "processes"

    def __init__(self, spec: ProcessesSpec | None = None) -> None:
        super().__init__(spec)
        self._processes: list[_Worker] = []
        self._inbox: queue.Queue[tuple[Child, bytes | None]] = queue.Queue()

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return self.spec.workers or _gpus() or cores()

    def check(self, device: str | None) -> None:
        """Refuse a device that is not there, and one GPU among several: each worker sees its own alone."""
        super().check(device)
        if device is not None and device.startswith("cuda:"):
            number = device.partition(":")[2]
            raise UserError(
                f"device '{device}': each worker of executor {self.name} has a GPU of its own, which it calls cuda",
                f"write device cuda, and set CUDA_VISIBLE_DEVICES={number} for that one alone",
            )

    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield outcomes as they come; a worker that dies costs only its job in flight."""
        waiting = list(jobs)[::-1]
        while len(self._processes) < min(self.workers, len(waiting)):
            threads = max(cores() // self.workers, 1)
            self._processes.append(_Worker(len(self._processes), threads, self._inbox, self.spec.time_limit))
        try:
            for worker in self._processes:
                if waiting:
                    worker.start(waiting.pop())
            while any(worker.job for worker in self._processes):
                yield from self._next()
                for worker in self._processes:
                    if not worker.job and waiting:
                        worker.start(waiting.pop())
        except BaseException:
            self.close()
            raise

    def _next(self) -> Iterator[str]:
        """Yield the next outcome of a worker, or else that those which take too long are ended."""
        try:
            child, frame = self._inbox.get(timeout=None if self.spec.time_limit is None else self.wait_seconds(1.0))
        except queue.Empty:
            # A worker is late only if none has sent anything: an outcome that waits to be read is no delay of its own.
            yield from [worker.give_up() for worker in self._processes if worker.late]
            return
        # What comes from a process that was ended and replaced is passed over.
        for worker in self._processes:
            if worker.child is child and (outcome := worker.receive(frame)) is not None:
                yield outcome

    def close(self) -> None:
        """End all workers at once; what they had sent is already stored."""
        for worker in self._processes:
            worker.child.kill()
        self._processes.clear()


def _gpus() -> int:
    """Number of CUDA devices that workers may be pinned to; asks torch only where a driver is present."""
    if not os.path.exists("/proc/driver/nvidia/version"):
        return 0
    import torch

    return torch.cuda.device_count()


class _Worker(Watched):
    """One process; started again when it dies."""

    def __init__(
        self, index: int, threads: int, inbox: queue.Queue[tuple[Child, bytes | None]], limit: float | None
    ) -> None:
        super().__init__(limit)
        self._inbox, self._false_starts = inbox, 0
        # Read by the libraries when the child imports them; this process's own pools are already made.
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        self._variables = {name: str(threads) for name in names}
        gpus = _gpus()
        if gpus:
            self._variables["CUDA_VISIBLE_DEVICES"] = _visible(index % gpus)
        self._spawn()

    def _spawn(self) -> None:
        self._has_answered = False
        self.child = Child(SERVE, "a worker process", lambda *message: self._inbox.put(message), self._variables)

    def start(self, job: str) -> None:
        self.job = job
        self.child.send(job.encode())

    def receive(self, frame: bytes | None) -> str | None:
        """Return an outcome, or None at the end of a job.

        Raises:
            UserError: when the process cannot even start, again and again.
        """
        if frame is None:
            self._false_starts += self.child.failed and not self._has_answered
            if self._false_starts == FALSE_STARTS:
                raise UserError(f"no worker can start: {self.child.ending()}", "mend that, or use executor serial")
            outcome = self.lost(self.child.ending()) if self.job else None
            self._spawn()
            return outcome
        self._has_answered, self._false_starts = True, 0
        text = frame.decode() or None  # an empty frame ends a job
        self.note_outcome(text)
        return text

    def give_up(self) -> str:
        """End the process, which takes too long, and start another in its place."""
        self.child.kill()
        self._spawn()
        return self.given_up()


def _visible(index: int) -> str:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[index] if listed else str(index)


def serve(receive: Receive, send: Send) -> None:
    """Execute jobs, in a child."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_freed()

    while True:
        for outcome in execute(receive().decode()):
            send(outcome.encode())
        send(b"")
