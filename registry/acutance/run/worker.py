"""A worker: one job in, outcomes out as they come. A job is one model with its missing cells.

The order is model, then batch, then measure family: the weights are flattened and the batch is moved once,
and the measures of a family share passes.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from acutance.errors import Excluded, Misfit, UserError, as_errors, caught, some
from acutance.measure import Cost, Estimate, Status
from acutance.own_code import load_function
from acutance.run.families import Ready, Unit, family_estimates, units
from acutance.run.jobs import (
    Begun,
    Build,
    Built,
    Call,
    Called,
    Compare,
    Evaluate,
    Failed,
    Note,
    Opened,
    Outcome,
    Parts,
    Sent,
    Unreadable,
    on_device,
    read_job,
    receive,
    write,
)
from acutance.run.points import close_points, open_points, opened_pool
from acutance.run.predictions import Predictions, outputs_identity
from acutance.study.surface_config import Scope
from acutance.system.kept import preserved_rng

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.data.prefetch import Prefetch


def execute(job: str, device: str | None = None) -> Iterator[str]:
    """Yield the outcomes of a job as JSON texts; a failure is an outcome too.

    Args:
        job: the text of an ``acutance.run.jobs.Job``.
        device: of this worker, in place of the one that the job names.
    """
    from acutance.model.conditions import outside_inference_mode

    try:
        work = on_device(read_job(job), device)
    except Unreadable as error:
        yield write(Failed(job=error.job, message=str(error)))
        return
    try:
        receive(job)
    except UserError as error:
        yield write(Failed(job=work.id, message=str(error)))
        return
    with preserved_rng():
        steps = outside_inference_mode(_done(work))
        while True:
            text: str | None = None
            with caught() as errors, as_errors("a plugin"):
                outcome = next(steps, None)
                text = None if outcome is None else write(outcome)
            if text is None:
                break
            yield text
    for fault in errors:
        message = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
        excluded, misfit = isinstance(fault, Excluded), isinstance(fault, Misfit)
        trace = "".join(traceback.format_exception(fault))
        yield write(Failed(job=work.id, message=message, traceback=trace, excluded=excluded, misfit=misfit))


def _done(job: Sent) -> Iterator[Outcome]:
    """Yield the outcomes of a job."""
    if isinstance(job, Call):
        return _call(job)
    if isinstance(job, Compare):
        from acutance.run.comparing import compare

        return compare(job)
    return _build(job) if isinstance(job, Build) else _evaluate(job)


def _call(job: Call) -> Iterator[Outcome]:
    for payload in load_function(job.function)(job.payload, job.device):
        yield Called(job=job.id, payload=payload)


def _build(job: Build) -> Iterator[Outcome]:
    pool, spec, entry = opened_pool(job)
    start = time.perf_counter()
    facts = pool.build(entry, spec)
    yield Built(job=job.id, entry=entry.id, facts=facts, seconds=time.perf_counter() - start)


@lru_cache(maxsize=1)
def _prefetch() -> Prefetch:
    """A model that is loaded ahead waits for its job."""
    from acutance.data.prefetch import Prefetch

    return Prefetch()


def close_data() -> None:
    """Let go of the data, and of the model, that stay open between jobs."""
    close_points()
    _prefetch.cache_clear()


def _evaluate(job: Evaluate) -> Iterator[Outcome]:
    """Yield the outcomes of a job: the model's identity, the values of its cells as they come, notes."""
    from acutance.surface.integrity import Corrupted

    cells = [Ready.of(cell) for cell in job.cells]
    needed = frozenset[str]().union(*(ready.instance.needs(ready.spec) for ready in cells))
    bench = _Bench(job, needed)
    yield from bench.open()
    bench.surfaces.require_fit(job.look)
    for unit in units(cells):
        if job.announce:
            yield Begun(job=job.id, cells=tuple(ready.cell.index for ready in unit.family))
        try:
            yield bench.measure(unit)
        except Corrupted as error:
            # What follows must see the model and the points as they are: both are opened anew.
            failed = [Estimate.without_value(Status.FAILED, str(error))] * len(unit.family)
            yield unit.outcome(job.id, failed, bench.device, 0.0, Cost())
            close_data()
            list(bench.open())
    for note in bench.structure():
        yield Note(job=job.id, message=f"{bench.entry.architecture}: {note}")
    bench.close()


class _Bench:
    """One model, opened, and the surfaces of its batches, one at a time."""

    def __init__(self, job: Evaluate, needed: frozenset[str]) -> None:
        self.job, self.needed, self.config = job, needed, job.surface
        self.silent: list[str] = []  # parameters without effect, as far as a measure asked for the gradient
        self.rounding = 0.0  # of a coarse arithmetic, at the first m-batch
        self.pool, self.spec, self.entry = opened_pool(job)

    def open(self) -> Iterator[Opened | Note]:
        """Load the model and the points, and say what the model is."""
        from acutance.surface.open_model import OpenModel, Surfaces

        start, job = time.perf_counter(), self.job
        self.sets = open_points(job.dataset, self.config, job.seed)
        model, self.key = _prefetch().get(self.pool, self.spec, self.entry)
        if job.next is not None:
            _prefetch().begin(*opened_pool(job.next))
        self.opened = OpenModel.entry(
            self.pool, self.spec, self.entry, self.sets.dataset, job.device, self.config.dtype, model, job.asked
        )
        self.functional = functional = self.opened.functional
        yield Opened(
            job=job.id, entry=self.entry.id, key=self.key,
            initial=_digest(lambda: functional.w0) if "initial_weights" in job.asked else None,
            update=_digest(lambda: functional.update_step) if "update" in job.asked else None,
            parameters=functional.size, notes=tuple(functional.all_notes), seconds=time.perf_counter() - start,
        )  # fmt: skip
        self.surfaces = Surfaces(self.opened, self.sets, self.config, job.workers)
        for need, name in (("initial_weights", "w0"), ("update", "update_vector"), ("update", "update_parts")):
            if need not in self.needed:
                vars(functional).pop(name, None)  # numbers that nobody here reads
        self.at: tuple[str, Scope, int] | None = None
        if any(cell.scope != "split" for cell in job.cells):
            already = len(functional.notes)
            _ = self.surfaces.as_set_up
            yield from (Note(job=job.id, message=f"{self.entry.id}: {n}") for n in functional.notes[already:])
        self.notes_sent = len(functional.notes)

    @property
    def device(self) -> str:
        """Where the model is."""
        return str(self.functional.device)

    def measure(self, unit: Unit) -> Parts:
        """Return the values of a family on its batch."""
        if self.at != (unit.split, unit.scope, unit.batch):
            self.close()
            self.surface = self.surfaces.on(unit.split, unit.scope, unit.batch)
            self.predictions = self._predictions(unit.split, unit.scope)
            self.predictions.give(self.surface)
            self.at = (unit.split, unit.scope, unit.batch)
        start, before = time.perf_counter(), self.surface.cost
        estimates = family_estimates(unit, self.surface, self.job.seed)
        self.predictions.take(self.surface)
        versions = self.sets.split(unit.split).versions if unit.scope == "split" else 1
        if versions > 1:  # the ceiling of what can be told from this split counts the examples
            estimates = [replace(e, extras={**e.extras, "versions": versions}) for e in estimates]
        if unit.scope == "batch" and unit.batch == 0:
            self.silent = self.surface.silent() or self.silent
            self.rounding = float(self.surface.rounding())
        seconds = time.perf_counter() - start
        return unit.outcome(self.job.id, estimates, self.device, seconds, self.surface.cost - before)

    def _predictions(self, split: str, scope: Scope) -> Predictions:
        """Return what is kept of the outputs on the points of the present surface: those of all points, no others."""
        if scope != "points":
            return Predictions(None)
        inputs = self.sets.digest_of_inputs(split, self.opened.preprocess)
        return Predictions.of(self.job.outputs, self.key, inputs, outputs_identity(self.config, self.sets))

    def close(self) -> None:
        """Let go of what the present surface holds on the device."""
        if self.at is not None:
            self.surface.release()

    def structure(self) -> list[str]:
        """Return what a reader should know about the model's parameters."""
        tied = [slot.names for slot in self.functional.slots if len(slot.names) > 1]
        notes = [f"one parameter by the names {' and '.join(names)}" for names in tied]
        if self.silent:
            notes.append(f"no effect on the loss of the first m-batch: {some(sorted(self.silent))}")
        if (microbatch := self.opened.microbatch) is not None:
            notes.append(f"{self.entry.id}: memory holds {microbatch} of the {self.config.m} examples in one pass")
        if self.rounding:
            coarse = self.config.arithmetic if self.config.dtype != "native" else "rounding of the weights"
            moved = f"{coarse} moves the loss of the first m-batch by {self.rounding:.1g}"
            notes.append(f"{self.entry.id}: {moved}; smaller rises mean nothing")
        return notes + [f"{self.entry.id}: {note}" for note in self.functional.notes[self.notes_sent :]]


def _digest(fetch: Callable[[], Tensor | list[Tensor] | None]) -> str | None:
    """Return the digest of what a pool has for each weight, empty where it has nothing; None where it cannot be had."""
    from acutance.data.fingerprint import digest_initial

    found: str | None = None
    with caught():  # the measure that asks for them again fails with the reason; the others do not
        numbers = fetch()
        found = (
            ""
            if numbers is None
            else (digest_initial(*numbers) if isinstance(numbers, list) else digest_initial(numbers))
        )
    return found
