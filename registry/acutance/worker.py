"""A worker: one job in, outcomes out as they come. A job is one model with its missing cells.

The order is model, then batch, then measure family: the weights are flattened and the batch is moved once,
and the measures of a family share passes.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from acutance.errors import Excluded, UserError, some
from acutance.hookspecs import Retry, Skip
from acutance.measure import Estimate, Status
from acutance.plugins import catalog
from acutance.pool import ModelEntry
from acutance.spec import canonical_json, validate
from acutance.surface_config import Scope, SurfaceConfig

if TYPE_CHECKING:
    from torch import nn

    from acutance.functional import FunctionalModel
    from acutance.pointsets import PointSets
    from acutance.surface import LossSurface

WHOLE_MICROBATCH = 1000  # examples in one pass over a whole split


def execute(job: str) -> Iterator[str]:
    """Yield the outcomes of a job as JSON texts; a failure is an outcome too.

    Args:
        job: JSON with ``kind`` build or evaluate, ``pool``, ``entry`` and, to evaluate, ``dataset``,
            ``surface``, ``seed``, ``device``, ``cells`` and ``initial``: whether some measure needs initial weights.
    """
    from acutance.evaluation import preserved_rng

    data = json.loads(job)
    work = {"build": _build, "evaluate": _evaluate}[data["kind"]]
    try:
        with preserved_rng():
            for outcome in work(data):
                yield json.dumps({"job": data["id"], **outcome})
    except Exception as error:
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        outcome = {"kind": "failed", "job": data["id"], "message": message, "traceback": traceback.format_exc()}
        yield json.dumps(outcome | {"excluded": isinstance(error, Excluded)})


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


def close_data() -> None:
    """Let go of the data that stay open between jobs."""
    _point_sets.cache_clear()


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
    from acutance.batch import dtype_of
    from acutance.fingerprint import model_key
    from acutance.functional import FunctionalModel

    start = time.perf_counter()
    surface = SurfaceConfig.model_validate(data["surface"])
    sets = _point_sets(canonical_json(data["dataset"]), surface.model_dump_json(), data["seed"])
    pool, spec, entry = _pool(data)
    model: nn.Module = pool.load(entry, spec)
    key = model_key(entry.architecture, model)
    functional = FunctionalModel(model, data["device"], dtype_of(surface.dtype))
    with_initial = data.get("initial", False)
    if with_initial:
        functional.initial = lambda: pool.initial(entry, spec)
    yield {
        "kind": "model",
        "entry": entry.id,
        "key": key,
        "initial": _initial(functional) if with_initial else None,
        "parameters": functional.w.numel(),
        "notes": functional.notes,
        "seconds": time.perf_counter() - start,
    }
    preprocess = pool.preprocess(entry, spec)
    cells = _cells(data)
    if not any("initial_weights" in cell.instance.needs(cell.spec) for cell in cells):
        vars(functional).pop("w0", None)  # a vector that nobody here reads
    as_set_up = functional
    if any(c.scope != "split" for c in cells):
        told = len(functional.notes)
        as_set_up = set_up(functional, sets, surface, preprocess)
        yield from ({"kind": "note", "message": f"{entry.id}: {note}"} for note in functional.notes[told:])
    # Insertion order keeps the plan's order: split, then batch, then family.
    for split, scope in dict.fromkeys((c.split, c.scope) for c in cells):
        here = [c for c in cells if (c.split, c.scope) == (split, scope)]
        # Targets are measured on the model as it is.
        chosen = functional if scope == "split" else as_set_up
        for batch in sorted({b for c in here for b in c.batches}):
            yield from _one_batch(chosen, sets, surface, split, scope, batch, here, data["seed"], preprocess)
    yield from ({"kind": "note", "message": f"{entry.architecture}: {note}"} for note in _structure(as_set_up))


def _structure(functional: FunctionalModel) -> list[str]:
    """Return what a reader should know about the model's parameters."""
    notes = [
        f"one parameter by the names {' and '.join(slot.names)}" for slot in functional.slots if len(slot.names) > 1
    ]
    if functional.silent:
        notes.append(f"no effect on the loss of the first m-batch: {some(sorted(functional.silent))}")
    return notes


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


def _one_batch(
    functional: FunctionalModel,
    sets: PointSets,
    config: SurfaceConfig,
    split: str,
    scope: Scope,
    batch: int,
    cells: list[_Cell],
    seed: int,
    preprocess: Any,
) -> Iterator[dict[str, Any]]:
    surface = build_surface(functional, sets, config, split, scope, batch, preprocess)
    families: dict[tuple[str, int], list[_Cell]] = {}
    for cell in cells:
        if batch in cell.batches:
            families.setdefault((cell.measure, cell.replicate), []).append(cell)
    for (measure, replicate), family in families.items():
        start, before = time.perf_counter(), surface.cost
        estimates = _with_retries(measure, family, surface, seed, batch, replicate)
        cost = surface.cost - before
        yield {
            "kind": "parts",
            "measure": measure,
            "split": split,
            "batch": batch,
            "device": str(functional.device),
            "seconds": time.perf_counter() - start,
            "cost": [cost.forwards, cost.backwards, cost.hvps],
            "parts": [
                [cell.index, e.value, e.stderr, e.status.value, e.message, dict(e.extras)]
                for cell, e in zip(family, estimates, strict=True)
            ],
        }
    if scope == "batch" and batch == 0:
        functional.silent = surface.silent()


def build_surface(
    functional: FunctionalModel, sets: PointSets, config: SurfaceConfig, split: str, scope: Scope, batch: int,
    preprocess: Any,
) -> LossSurface:  # fmt: skip
    """Return the surface that a cell of this scope sees: one m-batch, a whole split, or no data."""
    from acutance.lazy import applied
    from acutance.surface import LossSurface

    if scope == "weights":
        return LossSurface(functional, None, parameters=config.parameters)
    inputs, targets = sets.sets(split, scope)[batch]
    return LossSurface(
        functional,
        (applied(preprocess, inputs), targets),
        loss=config.loss,
        parameters="all" if scope == "split" else config.parameters,
        microbatch=config.microbatch or (None if scope == "batch" else WHOLE_MICROBATCH),
        num_train=len(sets.split(config.split)),
        score=sets.split(split).score,
    )


def _with_retries(
    measure: str, family: list[_Cell], surface: LossSurface, seed: int, batch: int, replicate: int
) -> list[Estimate]:
    """Evaluate a family; what raises is decided by the hook ``on_cell_error``."""
    from acutance.evaluation import evaluate_family

    specs = [cell.spec for cell in family]
    while True:
        try:
            return evaluate_family(
                measure, family[0].instance, surface, specs, seed=seed, batch=batch, replicate=replicate
            )
        except Exception as error:
            size = surface.microbatch or surface.n
            answer = catalog().manager.hook.on_cell_error(error=error, measure=measure, microbatch=size)
            if isinstance(answer, Retry) and 1 <= answer.microbatch < size:
                surface.microbatch = answer.microbatch
                continue
            if isinstance(answer, Skip):
                return [Estimate.without_value(Status.UNSUPPORTED, answer.reason)] * len(specs)
            # One by one, so that what fails takes nothing else with it.
            return [
                evaluate_family(
                    measure, family[0].instance, surface, [spec], seed=seed, batch=batch, replicate=replicate,
                    catch=True,
                )[0]
                for spec in specs
            ]  # fmt: skip
