"""Where jobs run: strings in, strings out.

A job is one JSON text, an outcome another; outcomes stream back as they come. The executors here need
nothing but this machine.
"""

from __future__ import annotations

import json
import os
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import ClassVar, TypeVar

from pydantic import PositiveFloat, PositiveInt

from acutance.spec import Spec, Specified, SpecT


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Executor(Specified[SpecT], AbstractContextManager["Executor[SpecT]"]):
    """Runs jobs; a context manager, so that workers end with the run."""

    name: ClassVar[str]

    def __init__(self, spec: SpecT | None = None) -> None:
        self.spec: SpecT = spec if spec is not None else self.Spec()  # type: ignore[assignment]

    @property
    def workers(self) -> int:
        """How many jobs run at once."""
        return 1

    @property
    def announced(self) -> bool:
        """Whether workers must say what begins: ``{"kind": "begin", "job": id, "cells": [...]}``."""
        return False

    @abstractmethod
    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield the outcomes of all jobs as they come, in any order between jobs.

        A worker that dies yields ``{"kind": "lost", "job": id, "message": ...}`` and is replaced. One that is ended
        because what it began takes too long yields ``late`` in place of ``lost``.
        """

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

    def glance(self, most: float) -> float:
        """Return how long to wait for outcomes before the next look at who is late, at most ``most`` seconds."""
        return min(self.spec.time_limit or most, most)


class Watched:
    """A worker as its executor sees it: its job, and since when the cells in work are so."""

    def __init__(self) -> None:
        self.job: str | None = None
        self._began: float | None = None  # if that was said

    def hear(self, outcome: str | None) -> None:
        """Take note of an outcome, None at the end of a job."""
        self._began = time.monotonic() if outcome and '"kind": "begin"' in outcome[:80] else None
        if outcome is None:
            self.job = None

    def late(self, limit: float | None) -> bool:
        """Return whether the cells in work take longer than the limit."""
        return limit is not None and self._began is not None and time.monotonic() - self._began > limit

    def lost(self, message: str) -> str:
        """Take the job off a worker that died; return the outcome that says so."""
        return self._without_job("lost", message)

    def given_up(self, limit: float | None) -> str:
        """Take the job off a worker that was ended because it was late; return the outcome that says so."""
        return self._without_job("late", f"took longer than executor.time_limit, {limit or 0:g} s, on one m-batch")

    def _without_job(self, kind: str, message: str) -> str:
        job = json.loads(self.job or "{}").get("id")
        self.job = self._began = None
        return json.dumps({"kind": kind, "job": job, "message": message})


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
        from acutance.worker import execute

        for job in jobs:
            yield from execute(job)


class ProcessesSpec(LimitedSpec):
    """Settings of the processes executor."""

    workers: PositiveInt | None = None
    """Number of processes; one for each GPU, else one for each core."""


class Processes(Limited[ProcessesSpec]):
    """Jobs in parallel processes on this machine, one for each GPU or core, each core with one thread."""

    name = "processes"

    def __init__(self, spec: ProcessesSpec | None = None) -> None:
        super().__init__(spec)
        self._crew: list[_Worker] = []

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return self.spec.workers or _gpus() or cores()

    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield outcomes as they come; a worker that dies costs only its job in flight."""
        from multiprocessing.connection import wait

        waiting = list(jobs)[::-1]
        while len(self._crew) < min(self.workers, len(waiting)):
            self._crew.append(_Worker(len(self._crew), max(cores() // self.workers, 1)))
        try:
            for worker in self._crew:
                if waiting:
                    worker.start(waiting.pop())
            while any(worker.job for worker in self._crew):
                busy = {worker.pipe: worker for worker in self._crew if worker.job}
                limit = self.spec.time_limit
                ready = wait(list(busy), None if limit is None else self.glance(1.0))
                late = [worker for pipe, worker in busy.items() if pipe not in ready and worker.late(limit)]
                for worker in [busy[pipe] for pipe in ready] + late:  # type: ignore[index]
                    outcome = worker.give_up(limit) if worker in late else worker.receive()
                    if outcome is not None:
                        yield outcome
                    if not worker.job and waiting:
                        worker.start(waiting.pop())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers at once; what they had sent is already stored."""
        for worker in self._crew:
            worker.end()
        self._crew.clear()


def _gpus() -> int:
    """Number of CUDA devices that workers may be pinned to; asks torch only where a driver is present."""
    if not os.path.exists("/proc/driver/nvidia/version"):
        return 0
    import torch

    return torch.cuda.device_count()


class _Worker(Watched):
    """One process and the pipe to it; started again when it dies."""

    def __init__(self, index: int, threads: int) -> None:
        super().__init__()
        self.index, self.threads = index, threads
        self._spawn()

    def _spawn(self) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # Read by the libraries when the child imports them; the parent's own pools are already made.
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
        gpus = _gpus()
        if gpus:
            threads["CUDA_VISIBLE_DEVICES"] = _visible(self.index % gpus)
        before = {name: os.environ.get(name) for name in threads}
        os.environ.update(threads)
        try:
            self.process = context.Process(target=_serve, args=(theirs, self.threads), daemon=True)
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()

    def start(self, job: str) -> None:
        if not self.process.is_alive():
            self._spawn()
        self.job = job
        try:
            self.pipe.send(job)
        except OSError:
            # It died since the look above; the reading side reports the loss.
            return

    def receive(self) -> str | None:
        """Return an outcome, or None at the end of a job."""
        try:
            outcome: str | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return self._replaced(self.lost(f"a worker process died ({how})"))
        self.hear(outcome)
        return outcome

    def give_up(self, limit: float | None) -> str:
        """End the process, which takes too long."""
        self.process.kill()
        self.process.join()
        return self._replaced(self.given_up(limit))

    def _replaced(self, outcome: str) -> str:
        """Start another process in place of one that has ended."""
        self.pipe.close()
        self._spawn()
        return outcome

    def end(self) -> None:
        self.process.terminate()
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _visible(index: int) -> str:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[index] if listed else str(index)


def _serve(pipe: object, threads: int) -> None:
    """Child process: execute jobs until the parent goes away."""
    import signal
    import sys

    # Ctrl-C reaches the whole process group; the parent decides what ends and what is kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    from acutance.worker import execute

    connection: object = pipe
    try:
        while True:
            job = connection.recv()  # type: ignore[attr-defined]
            for outcome in execute(job):
                connection.send(outcome)  # type: ignore[attr-defined]
            connection.send(None)  # type: ignore[attr-defined]
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
