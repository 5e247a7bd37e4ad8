"""Points computed by an executor's workers, which open model and points by their names."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.plugins import catalog
from acutance.run.jobs import Call, Called, Failed, Late, Lost, read_outcome, write
from acutance.spec import validate
from acutance.system.progress import Silent
from acutance.workflows.landscape.asked import Asked
from acutance.workflows.landscape.frames import Frame, Place
from acutance.workflows.landscape.opening import Named, checkpoints_of
from acutance.workflows.landscape.slices import Reading, Readings, Slices
from acutance.workflows.landscape.surfaces import surfaces_of
from acutance.workflows.landscape.values import stored_vectors
from acutance.workflows.landscape.work import Work

if TYPE_CHECKING:
    from acutance.run.executors import Executor

SERVE = "acutance.workflows.landscape.remote:serve"
SHARES = 4  # jobs of a worker, so that all end together
MOST = 256  # places of a job
RETRIES = 2  # how often places go to another worker after theirs died


class Remote:
    """Readings by an executor.

    Args:
        executor: which runs jobs.
        shared: what all jobs say.
        device: where workers compute.
    """

    def __init__(self, executor: Executor[Any], shared: Mapping[str, Any], device: str | None) -> None:
        self._executor, self._shared, self._device = executor, dict(shared), device or "cpu"

    @classmethod
    def of(
        cls, chosen: Mapping[str, Any], named: Named, checkpoints: Sequence[str], names: Sequence[str], wanted: Asked,
        loss: Any, microbatch: int | None, folder: Path, device: str | None,
    ) -> Remote:  # fmt: skip
        """Return what computes the points of a landscape.

        Args:
            chosen: the executor: ``name`` and its settings.
            named: the model and its points.
            checkpoints: by name.
            names: how pictures call them.
            wanted: what is asked for.
            loss: a name.
            microbatch: examples in one pass.
            folder: where vectors lie that are dear to make.
            device: where workers compute.

        Raises:
            UserError: for an unknown executor or setting, and a loss that has no name.
        """
        if not isinstance(loss, str):
            raise UserError("executor: workers know losses by name", "take cross_entropy or mse, or no executor")
        settings = {key: value for key, value in chosen.items() if key != "name"}
        target = catalog().get("executors", str(chosen.get("name", "")))
        executor = target(validate(target.Spec, settings, "executor"))
        executor.check(device)
        shared = {
            "named": named.plain(), "checkpoints": [str(name) for name in checkpoints], "names": list(names),
            "asked": asdict(wanted), "loss": loss, "microbatch": microbatch, "folder": str(folder.resolve()),
        }  # fmt: skip
        return cls(executor, shared, device)

    def readings(self, frame: Frame, places: Sequence[Place]) -> Iterator[tuple[Place, Readings]]:
        """Yield what is read at each place, as workers send it.

        Raises:
            UserError: where a worker fails, or dies again and again.
        """
        waiting, deaths = list(places), 0
        with self._executor as executor:
            while waiting:
                size = min(max(math.ceil(len(waiting) / (SHARES * executor.workers)), 1), MOST)
                jobs = [self._job(frame, i, waiting[i : i + size]) for i in range(0, len(waiting), size)]
                done, problem = set[Place](), ""
                for text in executor.run(jobs):
                    outcome = read_outcome(text)
                    if isinstance(outcome, Called):
                        place, readings = _read(outcome.payload)
                        done.add(place)
                        yield place, readings
                    elif isinstance(outcome, Failed):
                        raise UserError(f"a worker failed: {outcome.message}")
                    elif isinstance(outcome, Lost | Late):
                        problem = outcome.message
                waiting = [place for place in waiting if place not in done]
                deaths += bool(waiting)
                if deaths > RETRIES:
                    raise UserError(f"workers end before their points are computed: {problem}", "executor serial")

    def _job(self, frame: Frame, i: int, places: Sequence[Place]) -> str:
        payload = {"shared": self._shared, "draw": frame.draw, "places": [list(place) for place in places]}
        return write(Call(id=f"points {i}", function=SERVE, payload=payload, device=self._device))


def _read(payload: Mapping[str, Any]) -> tuple[Place, Readings]:
    return Place(*payload["place"]), {name: Reading(*reading) for name, reading in payload["readings"].items()}


def serve(payload: Mapping[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """Yield the readings at the places of a job, in a worker."""
    slices, frames = _opened(json.dumps(payload["shared"]), device)  # in order: the first split is one of its own
    frame = frames(payload["draw"])
    for place, readings in slices.readings(frame, [Place(*place) for place in payload["places"]]):
        yield {"place": list(place), "readings": {name: list(reading) for name, reading in readings.items()}}


@lru_cache(maxsize=1)
def _opened(shared: str, device: str) -> tuple[Slices, Any]:
    """Return the surfaces of what all jobs share, opened once, and what makes the frame of a draw."""
    given = json.loads(shared)
    asked = given["asked"]
    wanted = Asked(**{**asked, "kinds": tuple(asked["kinds"])})
    named = Named(**given["named"])
    opened, splits = named.opened(device)
    surfaces = surfaces_of(opened, splits, given["loss"], wanted.parameters, given["microbatch"])
    folder = Path(given["folder"])
    work = Work(wanted, surfaces, opened.functional, Silent(), folder)
    checkpoints, _ = checkpoints_of(given["checkpoints"], opened.functional.model, named.key, named.prefix)
    others = work.ends(checkpoints, given["names"])

    @lru_cache(maxsize=1)
    def frame(draw: int) -> Frame:
        return work.frame(others, lambda name, make: stored_vectors(folder, name, make), draw)

    return Slices(surfaces, work.batch_norm == "recalibrated"), frame
