"""``acutance check``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from acutance.cli import as_json
from acutance.cli.screen import in_bytes
from acutance.errors import UserError
from acutance.measure import Cost, Measure, PoolMeasure
from acutance.run.levels import sizes
from acutance.run.members import members
from acutance.study.attributes import Attributes, join, require
from acutance.study.config import Study, load_config
from acutance.study.targets import terms_of


@click.command("check")
@click.argument("config")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value, e.g. surface.m=64.")
@click.option("--limit", type=click.IntRange(1), help="At most this many models of each pool.")
@click.option("--time", "timed", is_flag=True, help="Time a few passes of each pool's model and estimate the whole.")
@click.option("--device", help="With --time: cpu, cuda, cuda:1 ...; the GPU when there is one.")
@click.option("--attributes", type=click.Path(path_type=Path), help="CSV of more attributes, as run will be given.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    config: str,
    overrides: tuple[str, ...],
    limit: int | None,
    timed: bool,
    device: str | None,
    attributes: Path | None,
    json_: bool,
) -> None:
    """Validate CONFIG (a preset or a file) and print what it would compute, without running it."""
    if device and not timed:
        raise UserError("--device: is for --time", "add --time")
    study = load_config(config, overrides)
    about = estimate(study, limit, attributes)
    if timed:
        about["time"] = _time(study, about, limit, device)
    if json_:
        as_json(about)
        return
    click.echo(f"{config}: ok")
    click.echo(f"  models           {about['models']}  ({', '.join(about['pools'])})")
    click.echo(f"  definitions      {about['definitions']}  in {len(about['measures'])} measure families")
    click.echo(f"  batches          {about['batches']} of m = {study.surface.m}")
    click.echo(f"  cells            {about['cells']}  and {about['targets']} targets a model")
    width = max(len(name) for name in about["measures"])
    click.echo("  passes a model   (forwards / backwards / Hessian-vector products over one m-batch)")
    for name, row in about["measures"].items():
        click.echo(f"    {name:<{width}}  {row['forwards']:>8g} / {row['backwards']:>8g} / {row['hvps']:>6g}")
    if about["outputs"]:
        click.echo(f"  outputs          {in_bytes(about['outputs'])} for each class in outputs/, which may be removed")
    beside, more = f"{about['vectors']} vectors of their size", about["vectors_of_few"]
    if more > about["vectors"]:
        beside += f" ({more} where there are fewer than 2^24)"
    if study.surface.dtype == "native":
        beside = _beside_native(study)
    click.echo(f"  memory           weights + {beside}, besides activations")
    click.echo(
        "  logits           of one microbatch where all take 256 MiB; of all points where outputs are read themselves"
    )
    if timed:
        _print_memory(about, _native_copies(study) if study.surface.dtype == "native" else None)
        _print_time(about["time"], study.surface.m)
    for warning in about["warnings"]:
        click.echo(f"note: {warning}")


def _native_copies(study: Study) -> int:
    """Return how many copies of weights in their own types measures hold: those that move, and a gradient."""
    needs = (planned.item.target().needs(planned.spec) for planned in study.measures)
    return 1 + any({"gradient", "update"} & need for need in needs)


def _beside_native(study: Study) -> str:
    """Return in words what measures hold beside weights in their own types: those that move, and gradients."""
    moved = "one copy of those that move, in their own types"
    needs = [planned.item.target().needs(planned.spec) for planned in study.measures]
    if _native_copies(study) == 1:
        return moved
    # A step that no pool knows is the gradient.
    when = "" if any("gradient" in need for need in needs) else " where the optimizer's step is not known"
    return (
        f"{moved}, and a gradient{when} (in float32 where it is summed up over several microbatches); in bytes a "
        "weight of bf16 or fp16 2 and 2 (4 in microbatches), and before these 4 for a copy in float32 in which the "
        "gradient is examined (8 for one in float64 where that does not acquit the model)"
    )


def _time(study: Study, about: dict[str, Any], limit: int | None, device: str | None) -> dict[str, Any]:
    from acutance.workflows.timing import time_study

    passes = sum((Cost(**row) for row in about["measures"].values()), Cost())
    workers = study.executor.item.target(study.executor.spec).workers
    pools = time_study(study, passes, workers, limit, device)
    return {"workers": workers, "pools": [dataclasses.asdict(pool) for pool in pools]}


def _print_memory(about: dict[str, Any], native: int | None) -> None:
    """Print what weights, and vectors of their size, take in bytes, by pool; native: how many copies those are."""
    from acutance.numerics.units import HUGE

    for row in about["time"]["pools"]:
        if not row["parameters"]:
            continue
        vectors = native or about["vectors" if row["parameters"] >= HUGE else "vectors_of_few"]
        whole = row["weights"] + vectors * row["vector"]
        click.echo(f"    {row['pool']}  {in_bytes(row['weights'])} of weights, {in_bytes(whole)} with these vectors")


def _print_time(time: dict[str, Any], m: int) -> None:
    """Print the times of passes and the whole time, by pool."""
    from acutance.workflows.timing import in_words

    click.echo(f"  time             (a forward / forward and backward / product over m = {m}, in milliseconds)")
    width = max(len(row["pool"]) for row in time["pools"])
    for row in time["pools"]:
        each = " / ".join(f"{1000 * row[kind]:.3g}" for kind in ("forward", "gradient", "product"))
        text = f"{each:<20}  {row['models']} models in {in_words(row['seconds'])}"
        note = f", {row['note']}" if row["note"] else ""
        click.echo(f"    {row['pool']:<{width}}  {text if row['model'] else 'no model is there'}{note}")
    whole, workers = sum(row["seconds"] for row in time["pools"]), time["workers"]
    shared = f"; {in_words(whole / workers)} if {workers} workers do not slow each other" if workers > 1 else ""
    click.echo(f"    about {in_words(whole)}, one model after the other{shared}")


def estimate(study: Study, limit: int | None = None, attributes: Attributes | None = None) -> dict[str, Any]:
    """Return the size of a study, as JSON values; opens neither data nor models.

    Args:
        study: from ``load_config``.
        limit: at most this many models of each pool.
        attributes: more attributes of the models, which groups may name.

    Raises:
        UserError: for a pool without models, or an attribute that no model has.
    """
    models = members(study, limit)
    notes = join(models, attributes) if attributes is not None else []
    require(study, models)
    batches = study.surface.batch_count
    measures: dict[str, Cost] = {}
    vectors = of_few = 0
    together: dict[tuple[str, str, int, str], list[Any]] = {}
    items = {}
    for planned in study.measures:
        items[planned.item.id] = planned.item
        vectors = max(vectors, planned.item.target().vectors(planned.spec))
        of_few = max(of_few, planned.item.target().vectors_of_few(planned.spec))
        family = planned.item.id, planned.scope, planned.replicate, planned.points
        together.setdefault(family, []).append(planned.spec)
    views: dict[tuple[str, str], set[Any]] = {}
    levels = sizes(study, models)
    for (of, scope, _, points), specs in together.items():
        measure = items[of].target()
        cost = measure.passes_together(specs) - _shared_passes(measure, specs, views.setdefault((scope, points), set()))
        cost *= batches if scope == "batch" else 1
        if isinstance(measure, PoolMeasure):
            cost += _pairs(measure, specs, levels)
        measures[items[of].name] = measures.get(items[of].name, Cost()) + cost
    terms = {term[1:] for term in terms_of([*study.targets, *(target for target, _ in study.admit)])}
    return {
        "models": len(models),
        "pools": [f"{pool.item.name}" for pool in study.pools],
        "definitions": len(study.measures),
        "batches": batches,
        "cells": len(models) * len(study.measures),
        "targets": len(terms),
        "measures": {
            name: {"forwards": c.forwards, "backwards": c.backwards, "hvps": c.hvps} for name, c in measures.items()
        },
        "outputs": _outputs(study, len(models)),
        "vectors": vectors,
        "vectors_of_few": max(vectors, of_few),
        "warnings": [*study.warnings, *notes],
    }


def _pairs(measure: PoolMeasure[Any], specs: list[Any], levels: list[int]) -> Cost:
    """Return the passes that a model's pairs with others cost beyond ``passes``, on average over the models."""
    among = [(n, measure.passes_among(spec, n) - measure.passes(spec)) for spec in specs for n in levels if n > 1]
    return sum((cost * (n / sum(levels)) for n, cost in among), Cost())


def _outputs(study: Study, models: int) -> int:
    """Return how many bytes are kept of what the models put out on the points, for each of their outputs."""
    splits = {planned.points for planned in study.measures if planned.scope == "points"}
    item = 8 if study.surface.dtype == "float64" else 4
    return models * len(splits) * study.surface.points * item


def _shared_passes(measure: Measure[Any], specs: list[Any], views: set[Any]) -> Cost:
    """Return the passes at w* that a family of specs needs and earlier ones of the same surfaces have made already.

    Args:
        measure: of the family.
        specs: of the family.
        views: those whose gradient at w* has been computed, and None when the logits there have; this family's are
            added.
    """
    asked = [(measure.shares(spec), spec) for spec in specs]
    gradients = {spec.view for need, spec in asked if need == "gradient"}
    again = len(gradients & views)
    logits = not gradients and bool(views) and any(need for need, _ in asked)
    views |= gradients | ({None} if any(need for need, _ in asked) else set())
    return Cost(forwards=again + logits, backwards=again)
