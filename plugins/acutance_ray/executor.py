"""The executor on Ray: actors take one job at a time and stream its outcomes; what dies is replaced."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from acutance.errors import UserError
from acutance.run.executors import Limited, LimitedSpec, Watched
from acutance.run.worker import execute

PASSED_ON = ("ACUTANCE_CACHE", "ACUTANCE_DATA", "ACUTANCE_PLUGINS", "PYTHONPATH")  # variables that workers need too


class RaySpec(LimitedSpec):
    """Settings of the ray executor."""

    address: str | None = None
    """``auto`` joins the cluster of this machine, ``ray://host:port`` another; none starts one here, for the run."""
    workers: PositiveInt | None = None
    """Number of actors; as many as the cluster has room for."""
    cpus: PositiveInt = 1
    """Cores of an actor, and threads of its libraries."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of an actor, also a part of one; 1 where the cluster has some, else 0."""
    memory: PositiveFloat | None = None
    """GiB that the scheduler sets aside for an actor; none keeps no account of it."""
    patience: PositiveFloat = 300
    """Seconds to wait for a first actor, or for another one when all are gone."""


class Ray(Limited[RaySpec]):
    """Jobs on a Ray cluster, one actor for each GPU or for some cores; actors and nodes may come and go."""

    name = "ray"

    def __init__(self, spec: RaySpec | None = None) -> None:
        super().__init__(spec)
        self._ray: Any = None
        self._started_here = False
        self._actors: list[_Actor] = []
        self._last_up = 0.0  # monotonic seconds
        self._trouble = ""  # what the last one died of

    @property
    def workers(self) -> int:
        """How many actors the cluster has room for, or the settings ask for."""
        ray = self._connected()
        if self.spec.workers is not None:
            return self.spec.workers
        there = ray.cluster_resources()
        rooms = [int(there.get("CPU", 0) // self.spec.cpus)]
        if self._gpus():
            rooms.append(int(there.get("GPU", 0) / self._gpus()))
        return max(min(rooms), 1)

    def check(self, device: str | None) -> None:
        """Refuse a device, which actors choose themselves, a missing package, and an address nobody listens at."""
        if device is not None:
            raise UserError(
                f"device '{device}': executor ray gives every actor its device",
                "set executor.gpus; 0 is for CPUs alone",
            )
        if find_spec("ray") is None:
            raise _missing_package()
        _require_listener(self.spec.address)

    def _gpus(self) -> float:
        if self.spec.gpus is not None:
            return self.spec.gpus
        return 1.0 if self._connected().cluster_resources().get("GPU", 0) else 0.0

    def _connected(self) -> Any:
        """Return ray, connected to the cluster.

        Raises:
            UserError: when ray is not installed, or there is no such cluster.
        """
        if self._ray is None:
            # No statistics of use are sent out; ray reads this when it is imported.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                import ray
            except ImportError:
                raise _missing_package() from None
            if not ray.is_initialized():
                _require_listener(self.spec.address)
                self._started_here = True
                settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
                if self.spec.address is None:
                    settings["include_dashboard"] = False  # no port is opened to anyone
                try:
                    ray.init(address=self.spec.address, **settings)
                except (ConnectionError, ValueError, RuntimeError) as error:
                    raise _no_cluster(self.spec.address, str(error).splitlines()[0]) from None
            self._ray = ray
        return self._ray

    def run(self, jobs: Iterable[str]) -> Iterator[str]:
        """Yield outcomes as they come; an actor that dies costs its job in flight."""
        self._connected()
        waiting = list(jobs)[::-1]
        wanted = min(self.workers, len(waiting))
        while len(self._actors) < wanted:
            self._actors.append(self._actor())
        self._last_up, self._trouble = time.monotonic(), ""
        try:
            while waiting or any(actor.job for actor in self._actors):
                for actor in self._actors:
                    if waiting and actor.ready and not actor.job:
                        actor.start(waiting.pop())
                for actor in self._ready():
                    outcome, alive = actor.receive()
                    if outcome is not None:
                        yield outcome
                    if not alive:
                        self._replace(actor)
                for actor in self._late():
                    yield actor.give_up()
                    self._replace(actor)
                self._check_patience()
        except BaseException:
            self.close()
            raise

    def _ready(self) -> list[_Actor]:
        """Return the actors that have something to tell; wait for one of them, until the next look at who is late."""
        pending = {actor.waits_for: actor for actor in self._actors if actor.waits_for is not None}
        done, _ = self._ray.wait(list(pending), num_returns=1, timeout=self.wait_seconds(5.0), fetch_local=False)
        return [pending[reference] for reference in done]

    def _late(self) -> list[_Actor]:
        """Return the actors whose cells take longer than the limit; one that has something to tell is not late."""
        late = {actor.waits_for: actor for actor in self._actors if actor.late}
        if not late:
            return []
        _, silent = self._ray.wait(list(late), num_returns=len(late), timeout=0, fetch_local=False)
        return [late[reference] for reference in silent]

    def _replace(self, actor: _Actor) -> None:
        """Put another actor in the place of one that has ended."""
        self._trouble = actor.trouble or self._trouble
        self._actors[self._actors.index(actor)] = self._actor()

    def _check_patience(self) -> None:
        """Go on while some actor is up, or one may still come up.

        Raises:
            UserError: when none has been up for too long.
        """
        if any(actor.ready for actor in self._actors):
            self._last_up = time.monotonic()
        elif time.monotonic() - self._last_up > self.spec.patience:
            raise UserError(
                f"executor ray: no actor with {self.spec.cpus} cores and {self._gpus():g} GPUs came up in "
                f"{self.spec.patience:g} s{self._trouble and f' ({self._trouble})'}",
                "ask for less with cpus, gpus and memory, or add nodes; what is done is kept",
            )

    def _actor(self) -> _Actor:
        """Return an actor, which comes up as soon as there is room for it."""
        variables = {name: value for name in PASSED_ON if (value := os.environ.get(name))}
        variables |= {name: str(self.spec.cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
        settings: dict[str, Any] = {
            "num_cpus": self.spec.cpus, "num_gpus": self._gpus(), "max_restarts": 0, "max_concurrency": 1,
            "runtime_env": {"env_vars": variables},
        }  # fmt: skip
        if self.spec.memory is not None:
            settings["memory"] = int(self.spec.memory * 2**30)
        device = "cuda" if self._gpus() else "cpu"
        return _Actor(self._ray, settings, self.spec.cpus, device, self.spec.time_limit)

    def close(self) -> None:
        """End all actors, and the cluster when it was started for this run."""
        for actor in self._actors:
            actor.end()
        self._actors.clear()
        if self._started_here and self._ray is not None:
            self._ray.shutdown()
        self._ray, self._started_here = None, False


def _missing_package() -> UserError:
    """Return the error for an installation without ray."""
    return UserError("executor ray: the package ray is missing", "pip install 'ray>=2.30'")


def _require_listener(address: str | None) -> None:
    """Refuse an address that nobody listens at; ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str | None, why: str) -> UserError:
    return UserError(
        f"executor.address: cannot join '{address}': {why}", "start one with 'ray start --head', or leave address out"
    )


class _Actor(Watched):
    """An actor of Ray with its job.

    Attributes:
        waits_for: the reference that is ready when the actor is up, or has the next outcome of its job; None without.
        ready: whether it has come up.
        trouble: the last line of what it died of.
    """

    def __init__(self, ray: Any, settings: dict[str, Any], threads: int, device: str, limit: float | None) -> None:
        super().__init__(limit)
        self.ray = ray
        self.handle = ray.remote(Worker).options(**settings).remote(threads, device)
        self.waits_for: Any = self.handle.up.remote()
        self.ready = False
        self.trouble = ""

    def start(self, job: str) -> None:
        self.job = job
        self.waits_for = self.handle.execute.options(num_returns="streaming").remote(job)

    def receive(self) -> tuple[str | None, bool]:
        """Return an outcome, if there is one, and whether the actor lives."""
        try:
            if not self.ready:
                self.ray.get(self.waits_for)
                self.ready, self.waits_for = True, None
                return None, True
            try:
                outcome: str = self.ray.get(next(self.waits_for))
            except StopIteration:
                self.waits_for = None
                self.note_outcome(None)
                return None, True
            self.note_outcome(outcome)
            return outcome, True
        except self.ray.exceptions.RayError as error:
            self.trouble = (str(error) or type(error).__name__).strip().splitlines()[-1]
            self.end()
            return self.job and self.lost(f"a ray actor died ({type(error).__name__})"), False

    def give_up(self) -> str:
        """End the actor, which takes too long."""
        self.end()
        return self.given_up()

    def end(self) -> None:
        self.ready, self.waits_for = False, None
        self.ray.kill(self.handle)


class Worker:
    """The class of the actors: executes one job after the other, with the threads and the device it was given."""

    def __init__(self, threads: int, device: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = device

    def up(self) -> bool:
        """Tell that the actor is there."""
        return True

    def execute(self, job: str) -> Iterator[str]:
        """Yield the outcomes of a job; the driver's machine may have another device than this one."""
        yield from execute(job, self.device)
