"""A worker: one job in, outcomes out as they come. A job is one model with its missing cells.

The order is model, then batch, then measure family: the weights are flattened and the batch is moved once,
and the measures of a family share passes.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from acutance.errors import Excluded, Misfit, UserError, some
from acutance.hookspecs import Retry, Skip
from acutance.measure import Cost, Estimate, Status
from acutance.plugins import catalog
from acutance.pool import ModelEntry
from acutance.spec import canonical_json, validate
from acutance.surface_config import Scope, SurfaceConfig

if TYPE_CHECKING:
    from acutance.functional import FunctionalModel
    from acutance.pointsets import PointSets
    from acutance.prefetch import Prefetch
    from acutance.surface import LossSurface

WHOLE_MICROBATCH = 1000  # examples in one pass over a whole split


def execute(job: str) -> Iterator[str]:
    """Yield the outcomes of a job as JSON texts; a failure is an outcome too.

    Args:
        job: JSON with ``kind`` build or evaluate, ``pool``, ``entry`` and, to evaluate, ``dataset``,
            ``surface``, ``seed``, ``device``, ``cells``, ``initial``: whether some measure needs initial weights,
            ``look``: splits whose points the model is first held to, ``announce``: whether to say what begins,
            ``next``: pool and entry of the model to load ahead, ``workers``: how many share the memory of a machine.
    """
    from acutance.conditions import apart_from_caller
    from acutance.evaluation import preserved_rng

    data = json.loads(job)
    work = {"build": _build, "evaluate": _evaluate}[data["kind"]]
    try:
        with preserved_rng():
            for outcome in apart_from_caller(work(data)):
                yield json.dumps({"job": data["id"], **outcome})
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome = {"kind": "failed", "job": data["id"], "message": message, "traceback": traceback.format_exc()}
        yield json.dumps(outcome | {"excluded": isinstance(error, Excluded), "misfit": isinstance(error, Misfit)})


def _pool(data: dict[str, Any]) -> tuple[Any, Any, ModelEntry]:
    item = catalog().find("pools", data["pool"]["name"])
    spec = validate(item.target.Spec, data["pool"]["spec"], data["pool"]["name"])
    return item.target(), spec, ModelEntry.model_validate(data["entry"])


def _build(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pool, spec, entry = _pool(data)
    start = time.perf_counter()
    facts = pool.build(entry, spec, threads=data.get("threads"))
    yield {"kind": "built", "entry": entry.id, "facts": facts, "seconds": time.perf_counter() - start}


@lru_cache(maxsize=4)
def _point_sets(dataset: str, surface: str, seed: int) -> PointSets:
    """Data stay open between the jobs of a process."""
    from acutance.pointsets import PointSets

    chosen = json.loads(dataset)
    item = catalog().find("datasets", chosen["name"])
    spec = validate(item.target.Spec, chosen["spec"], chosen["name"])
    return PointSets(item.target(spec), SurfaceConfig.model_validate_json(surface), seed)


@lru_cache(maxsize=1)
def _prefetch() -> Prefetch:
    """A model that is loaded ahead waits for its job."""
    from acutance.prefetch import Prefetch

    return Prefetch()


def close_data() -> None:
    """Let go of the data, and of the model, that stay open between jobs."""
    _point_sets.cache_clear()
    _prefetch.cache_clear()


@dataclass
class _Cell:
    """One cell of a job."""

    index: int
    measure: str
    instance: Any
    spec: Any
    replicate: int
    split: str
    scope: Scope
    batches: list[int]


def _cells(data: dict[str, Any]) -> list[_Cell]:
    cells = []
    for cell in data["cells"]:
        target = catalog().get("measures", cell["measure"])
        spec = validate(target.Spec, cell["spec"], cell["measure"])
        cells.append(
            _Cell(
                cell["index"],
                cell["measure"],
                target(),
                spec,
                cell["replicate"],
                cell["split"],
                cell["scope"],
                cell["batches"],
            )
        )
    return cells


def _evaluate(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from acutance.integrity import Corrupted

    cells = _cells(data)
    bench = _Bench(data, any("initial_weights" in cell.instance.needs(cell.spec) for cell in cells))
    yield from bench.open()
    bench.look(data.get("look", ()))
    for unit in _units(cells):
        if data.get("announce"):
            yield {"kind": "begin", "cells": [cell.index for cell in unit.family]}
        try:
            yield bench.measure(unit)
        except Corrupted as error:
            # What follows must see the model and the points as they are: both are opened anew.
            failed = [Estimate.without_value(Status.FAILED, str(error))] * len(unit.family)
            yield unit.outcome(failed, bench.device, 0.0, Cost())
            close_data()
            list(bench.open())
    yield from ({"kind": "note", "message": f"{bench.entry.architecture}: {note}"} for note in bench.structure())
    bench.close()


@dataclass
class _Unit:
    """The cells of one measure on one batch, which share passes."""

    split: str
    scope: Scope
    batch: int
    measure: str
    replicate: int
    family: list[_Cell]

    def outcome(self, estimates: list[Estimate], device: str, seconds: float, cost: Cost) -> dict[str, Any]:
        """Return what the driver is told."""
        return {
            "kind": "parts",
            "measure": self.measure,
            "split": self.split,
            "batch": self.batch,
            "device": device,
            "seconds": seconds,
            "cost": [cost.forwards, cost.backwards, cost.hvps],
            "parts": [
                [cell.index, e.value, e.stderr, e.status.value, e.message, dict(e.extras)]
                for cell, e in zip(self.family, estimates, strict=True)
            ],
        }


def _units(cells: list[_Cell]) -> Iterator[_Unit]:
    """Yield the work of a job in the order of its plan: split, then batch, then measure."""
    for split, scope in dict.fromkeys((c.split, c.scope) for c in cells):
        here = [c for c in cells if (c.split, c.scope) == (split, scope)]
        for batch in sorted({b for c in here for b in c.batches}):
            families: dict[tuple[str, int], list[_Cell]] = {}
            for cell in here:
                if batch in cell.batches:
                    families.setdefault((cell.measure, cell.replicate), []).append(cell)
            for (measure, replicate), family in families.items():
                yield _Unit(split, scope, batch, measure, replicate, family)


class _Bench:
    """One model, opened, and the surfaces of its batches, one at a time."""

    def __init__(self, data: dict[str, Any], need_initial: bool) -> None:
        self.data, self.need_initial = data, need_initial
        self.silent: list[str] = []  # parameters without effect, as far as a measure asked for the gradient
        self.microbatch: int | None = None  # examples that fit into memory together, where not all do
        self.fitted = False
        self.rounding = 0.0  # of a coarse arithmetic, at the first m-batch
        self.config = SurfaceConfig.model_validate(data["surface"])
        self.pool, self.spec, self.entry = _pool(data)

    def open(self) -> Iterator[dict[str, Any]]:
        """Load the model and the points, and say what the model is."""
        from acutance.batch import dtype_of
        from acutance.class_order import require_order
        from acutance.functional import FunctionalModel

        start, data = time.perf_counter(), self.data
        self.sets = _point_sets(canonical_json(data["dataset"]), self.config.model_dump_json(), data["seed"])
        model, key = _prefetch().take(self.pool, self.spec, self.entry)
        if "next" in data:
            _prefetch().begin(*_pool(data["next"]))
        require_order(model, self.entry.id, self.sets.dataset)
        self.functional = functional = FunctionalModel(model, data["device"], dtype_of(self.config.dtype))
        with_initial = data.get("initial", False)
        if with_initial:
            functional.initial = lambda: self.pool.initial(self.entry, self.spec)
        yield {
            "kind": "model",
            "entry": self.entry.id,
            "key": key,
            "initial": _initial(functional) if with_initial else None,
            "parameters": functional.w.numel(),
            "notes": functional.told,
            "seconds": time.perf_counter() - start,
        }
        self.preprocess = self.pool.preprocess(self.entry, self.spec)
        if not self.need_initial:
            vars(functional).pop("w0", None)  # a vector that nobody here reads
        self.at: tuple[str, Scope, int] | None = None
        self.as_set_up = functional
        if any(cell["scope"] != "split" for cell in data["cells"]):
            told = len(functional.notes)
            self.as_set_up = set_up(functional, self.sets, self.config, self.preprocess)
            yield from ({"kind": "note", "message": f"{self.entry.id}: {n}"} for n in functional.notes[told:])
        self.told = len(self.as_set_up.notes)

    def look(self, splits: Iterable[str]) -> None:
        """See whether the model takes the points of these splits before anything is measured on them.

        Raises:
            Misfit: naming the split.
        """
        from acutance.batch import take_rows
        from acutance.fitness import FEW, require_fit
        from acutance.lazy import applied

        for name in splits:
            split, where = self.sets.split(name), f"dataset '{self.sets.dataset.name}', split '{name}'"
            few = applied(self.preprocess, take_rows(split.inputs, slice(0, FEW)))
            require_fit(self.functional, few, split.targets, self.config.loss, where)

    @property
    def device(self) -> str:
        """Where the model is."""
        return str(self.functional.device)

    def measure(self, unit: _Unit) -> dict[str, Any]:
        """Return the values of a family on its batch."""
        if self.at != (unit.split, unit.scope, unit.batch):
            self.close()
            # Targets are measured on the model as it is.
            chosen = self.functional if unit.scope == "split" else self.as_set_up
            self.surface = build_surface(
                chosen, self.sets, self.config, unit.split, unit.scope, unit.batch, self.preprocess
            )
            self.at = (unit.split, unit.scope, unit.batch)
            if unit.scope == "batch" and self.config.microbatch is None:
                self._fit()
        start, before = time.perf_counter(), self.surface.cost
        estimates = _with_retries(unit, self.surface, self.data["seed"])
        versions = self.sets.split(unit.split).versions if unit.scope == "split" else 1
        if versions > 1:  # the ceiling of what can be told from this split counts the examples
            estimates = [replace(e, extras={**e.extras, "versions": versions}) for e in estimates]
        if unit.scope == "batch" and unit.batch == 0:
            self.silent = self.surface.silent() or self.silent
            self.rounding = float(self.surface.rounding())
        return unit.outcome(estimates, self.device, time.perf_counter() - start, self.surface.cost - before)

    def close(self) -> None:
        """Let go of what the present surface holds on the device."""
        if self.at is not None:
            self.surface.release()

    def _fit(self) -> None:
        """Cut the passes over an m-batch where a whole one would not fit into memory; asked once a model."""
        from acutance.fitting import fitting_microbatch, free_bytes
        from acutance.parts import divisible

        if not self.fitted:
            self.surface._check()
            room = free_bytes(self.functional.device)
            shared = self.data.get("workers", 1)  # processes that share the memory
            fitting = fitting_microbatch(self.surface._core, room and room / shared)
            # Where parts would give other values, all go together as long as memory lasts.
            self.microbatch = fitting if fitting and divisible(self.surface, fitting) else None
            self.fitted = True
        if self.microbatch is not None:
            self.surface.microbatch = self.microbatch

    def structure(self) -> list[str]:
        """Return what a reader should know about the model's parameters."""
        tied = [slot.names for slot in self.functional.slots if len(slot.names) > 1]
        notes = [f"one parameter by the names {' and '.join(names)}" for names in tied]
        if self.silent:
            notes.append(f"no effect on the loss of the first m-batch: {some(sorted(self.silent))}")
        if self.microbatch is not None:
            notes.append(f"{self.entry.id}: memory holds {self.microbatch} of the {self.config.m} examples in one pass")
        if self.rounding:
            moved = f"{self.config.arithmetic} moves the loss of the first m-batch by {self.rounding:.1g}"
            notes.append(f"{self.entry.id}: {moved}; smaller rises mean nothing")
        return notes + [f"{self.entry.id}: {note}" for note in self.as_set_up.notes[self.told :]]


def _initial(functional: FunctionalModel) -> str | None:
    """Return the digest of the initial weights, empty where there are none; None where they cannot be had."""
    from acutance.fingerprint import digest_initial

    try:
        return "" if functional.w0 is None else digest_initial(functional.w0)
    except Exception:
        # The measure that asks for them again fails with the reason; the others do not.
        return None


def set_up(
    functional: FunctionalModel, sets: PointSets, config: SurfaceConfig, preprocess: Any = None
) -> FunctionalModel:
    """Return the model as the surface section wants it: with recalibrated batch normalization, or unchanged."""
    from acutance.lazy import applied
    from acutance.recalibration import recalibrated

    if config.batch_norm == "eval":
        return functional
    return recalibrated(functional, (applied(preprocess, x) for x, _ in sets.batches))


def build_surface(
    functional: FunctionalModel, sets: PointSets, config: SurfaceConfig, split: str, scope: Scope, batch: int,
    preprocess: Any,
) -> LossSurface:  # fmt: skip
    """Return the surface that a cell of this scope sees: one m-batch, a whole split, or no data."""
    from acutance.forms import Given
    from acutance.lazy import applied
    from acutance.surface import LossSurface

    if scope == "weights":
        return LossSurface(functional, None, parameters=config.parameters)
    inputs, targets = sets.sets(split, scope)[batch]
    return LossSurface(
        functional,
        Given(applied(preprocess, inputs), targets),
        loss=config.loss,
        parameters="all" if scope == "split" else config.parameters,
        microbatch=config.microbatch or (None if scope == "batch" else WHOLE_MICROBATCH),
        num_train=len(sets.split(config.split)),
        score=sets.split(split).score,
        arithmetic="exact" if scope == "split" else config.arithmetic,
        cuda_graphs=config.cuda_graphs,
    )


def _with_retries(unit: _Unit, surface: LossSurface, seed: int) -> list[Estimate]:
    """Evaluate a family; what raises is decided by the hook ``on_cell_error``."""
    from acutance.evaluation import evaluate_family, reason
    from acutance.integrity import Corrupted, untouched

    def evaluated(cells: list[_Cell], catch: bool = False) -> list[Estimate]:
        with untouched(surface, unit.measure):
            return evaluate_family(
                unit.measure, cells[0].instance, surface, [cell.spec for cell in cells], seed=seed, batch=unit.batch,
                replicate=unit.replicate, catch=catch,
            )  # fmt: skip

    ran_out = ""
    while True:
        try:
            estimates = evaluated(unit.family)
            # Smaller passes that were refused are no help, but not what went wrong first.
            return [replace(e, message=f"{ran_out}{e.message}") if e.status is Status.FAILED else e for e in estimates]
        except Corrupted:
            raise
        except Exception as error:
            size = surface.microbatch or surface.n
            answer = catalog().manager.hook.on_cell_error(error=error, measure=unit.measure, microbatch=size)
            if isinstance(answer, Retry) and 1 <= answer.microbatch < size:
                surface.microbatch = answer.microbatch
                ran_out = f"{reason(error).splitlines()[0]}; and smaller passes are refused: "
                continue
            if isinstance(answer, Skip):
                return [Estimate.without_value(Status.UNSUPPORTED, answer.reason)] * len(unit.family)
            # One by one, so that what fails takes nothing else with it.
            return [evaluated([cell], catch=True)[0] for cell in unit.family]
