"""Running toy jobs on an executor in a process of its own, and noting everything that the checks look at.

The toys are a distribution in a folder that only this process, and the workers it starts, import from.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from acutance.plugin_files import received
from acutance.run.executors import Executor, Serial
from acutance.run.jobs import Cell, Choice, Evaluate, write
from acutance.study.surface_config import SurfaceConfig
from acutance.testing.child import resolve
from acutance.testing.toys import ConformPool, ToySpec

MEASURES = ("acutance/loss", "acutance/error")


def write_distribution(folder: Path) -> None:
    """Make a folder count as an installed distribution that registers the toys."""
    info = folder / "acutance_conformance-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acutance-conformance\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[acutance]\nconformance = acutance.testing.toys\n")


def toy_jobs() -> list[Evaluate]:
    """Return one job for each toy model; that of the broken one fails."""
    cells = tuple(Cell(i, measure, {}, 0, "train", "batch", (0, 1)) for i, measure in enumerate(MEASURES))
    return [
        Evaluate(
            id=f"job {entry.id}", pool=Choice("conform_pool", {}), entry=entry, dataset=Choice("conform_data", {}),
            surface=SurfaceConfig(points=24, m=8, dtype="float64"), seed=0, device="cpu", cells=cells,
        )
        for entry in ConformPool().entries(ToySpec())
    ]  # fmt: skip


def observed_run(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what serial and the executor make of the same jobs, and what is left running afterwards."""
    received(payload["files"])
    target = resolve(payload["target"])
    spec, toys = target.Spec.model_validate(payload["spec"]), toy_jobs()
    jobs, before = [write(job) for job in toys], children()
    answer: dict[str, Any] = {"jobs": [job.id for job in toys], "serial": list(Serial().run(jobs))}
    executor: Executor[Any] = target(spec)
    answer["manager"] = hasattr(executor, "__enter__") and hasattr(executor, "__exit__")
    answer["workers"] = executor.workers
    with executor as entered:
        answer["entered"] = type(entered).__qualname__ == target.__qualname__
        answer["first"] = [_text(outcome) for outcome in entered.run(jobs)]
        answer["second"] = [_text(outcome) for outcome in entered.run(iter(jobs[::-1]))]
        answer["none"] = [_text(outcome) for outcome in entered.run([])]
    answer["left"] = _left_over(before, payload["grace"])
    # An iterator that is dropped after one outcome: what a run does that is interrupted.
    with target(spec) as other:
        outcomes: Iterator[str] = iter(other.run(jobs))
        next(outcomes, None)
        getattr(outcomes, "close", lambda: None)()
    answer["left_after_interruption"] = _left_over(before, payload["grace"])
    answer["closes_twice"] = _closes_twice(executor)
    return answer


def _text(outcome: Any) -> Any:
    return outcome if isinstance(outcome, str) else {"not a text": type(outcome).__name__}


def _closes_twice(executor: Executor[Any]) -> str:
    try:
        executor.close()
        executor.close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _left_over(before: set[int], grace: float) -> int:
    """Return how many processes started since are still there after a while, and end them."""
    deadline = time.monotonic() + grace
    while (remaining := children() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in remaining:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return len(remaining)


def children() -> set[int]:
    """Return the ids of this process's children, without the helper that Python's own multiprocessing keeps."""
    pids = {child.pid for child in multiprocessing.active_children() if child.pid}
    listing = Path(f"/proc/{os.getpid()}/task")
    if listing.is_dir():
        for thread in listing.iterdir():
            try:
                pids |= {int(pid) for pid in (thread / "children").read_text().split()}
            except OSError:
                continue

    return pids - {getattr(resource_tracker._resource_tracker, "_pid", None)}
