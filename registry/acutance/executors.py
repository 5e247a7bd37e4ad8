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
from typing import ClassVar

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


class SerialSpec(Spec):
    """Settings of the serial executor: none."""


class Serial(Executor[SerialSpec]):
    """One job after the other in this process: the default with one device."""

    name = "serial"

    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield outcomes in order."""
        from acutance.worker import execute

        for job in jobs:
            yield from execute(job)


class ProcessesSpec(Spec):
    """Settings of the processes executor."""

    workers: PositiveInt | None = None
    """Number of processes; one for each GPU, else one for each core."""
    time_limit: PositiveFloat | None = None
    """Seconds that the cells of one measure may take on one m-batch; then their worker is ended and they fail."""


class Processes(Executor[ProcessesSpec]):
    """Jobs in parallel processes on this machine, one for each GPU or core, each core with one thread."""

    name = "processes"

    def __init__(self, spec: ProcessesSpec | None = None) -> None:
        super().__init__(spec)
        self._crew: list[_Worker] = []

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return self.spec.workers or _gpus() or cores()

    @property
    def announced(self) -> bool:
        """Whether workers must say what begins: where there is a limit to it."""
        return self.spec.time_limit is not None

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
                ready = wait(list(busy), None if limit is None else min(limit, 1.0))
                late = [worker for worker in busy.values() if limit and worker.busy_for() > limit]
                for worker in [busy[pipe] for pipe in ready] + [w for w in late if w.pipe not in ready]:  # type: ignore[index]
                    outcome = worker.receive() if worker.pipe in ready else worker.give_up(limit or 0)
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


class _Worker:
    """One process and the pipe to it; started again when it dies."""

    def __init__(self, index: int, threads: int) -> None:
        self.index, self.threads = index, threads
        self.job: str | None = None
        self.began: float | None = None  # when the cells in work began, if that was said
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
            return self._replaced("lost", f"a worker process died ({how})")
        self.began = time.monotonic() if outcome and '"kind": "begin"' in outcome[:80] else None
        if outcome is None:
            self.job = None
        return outcome

    def busy_for(self) -> float:
        """Return the seconds since the cells in work began."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    def give_up(self, limit: float) -> str:
        """End the process, which takes too long."""
        self.process.kill()
        self.process.join()
        return self._replaced("late", f"took longer than executor.time_limit, {limit:g} s, on one m-batch")

    def _replaced(self, kind: str, message: str) -> str:
        """Start another process in place of one that has ended, and say so."""
        job = json.loads(self.job or "{}").get("id")
        self.job = self.began = None
        self.pipe.close()
        self._spawn()
        return json.dumps({"kind": kind, "job": job, "message": message})

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
