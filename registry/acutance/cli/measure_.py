"""``acutance measure``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.errors import UserError, did_you_mean
from acutance.plugins import Item, catalog
from acutance.spec import validate

if TYPE_CHECKING:
    from torch import Tensor, nn


@click.command("measure")
@click.argument("model")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Checkpoint: .safetensors, .npz, .pt, .ckpt ...",
)
@click.option("--key", default="", metavar="KEY", help="Where in the checkpoint the state lies, e.g. ema.model.")
@click.option("--prefix", default="", metavar="PREFIX", help="Taken off the names in the checkpoint.")
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Argument of the model's function.")
@click.option("--data", required=True, help="File .npz/.safetensors with inputs and targets, or DATASET[:SPLIT].")
@click.option("--measure", "measures", required=True, multiple=True, help="Name of a measure; may be given again.")
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="Setting of the measures, e.g. rho=0.002.")
@click.option("--points", type=click.IntRange(1), help="Use this many points, classes in turn.")
@click.option("-m", "m", type=click.IntRange(1), default=128, show_default=True, help="Examples in one m-batch.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Names the noise.")
@click.option("--device", help="cpu, cuda ...")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="The model's own by default.")
@click.option("--explain", is_flag=True, help="Say in words what each value means and how far to trust it.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    model: str,
    weights: Path | None,
    key: str,
    prefix: str,
    arguments: tuple[str, ...],
    data: str,
    measures: tuple[str, ...],
    fields: tuple[str, ...],
    points: int | None,
    m: int,
    seed: int,
    device: str | None,
    dtype: str | None,
    explain: bool,
    json_: bool,
) -> int:
    """Evaluate measures on one checkpoint.

    MODEL is package.module:function, timm:NAME, or POOL/ENTRY of a pool, whose name may be its canonical id
    (mnist_resnet/mnist_resnet_000, acutance/mnist_resnet/mnist_resnet_000).
    """
    from acutance.checkpoints import load_file, make_model, parse_pairs
    from acutance.lazy import applied

    settings = parse_pairs(fields, "--set")
    needs: set[str] = set()
    for name in measures:
        # A mistake in a setting is told before anything is loaded.
        instance = catalog().measure(name)
        needs |= instance.needs(validate(instance.Spec, settings, name))
    inputs, targets = _data(data, points)
    initial = None
    if "/" in model and ":" not in model:
        net, initial, preprocess = _pool_model(model, "initial_weights" in needs)
        inputs = applied(preprocess, inputs)
    else:
        net = make_model(model, parse_pairs(arguments, "--arg"))
    if weights is not None:
        load_file(net, weights, key, prefix)
    elif key or prefix:
        raise UserError("--key and --prefix say where in --weights the state lies", "give --weights FILE")
    found = _evaluate(net, (inputs, targets), measures, settings, m, seed, device, dtype, initial)
    if json_:
        as_json({name: _row(e) | ({"explanation": e.explain()} if explain else {}) for name, e in found.items()})
    elif explain:
        click.echo("\n\n".join(e.explain() for e in found.values()))
    else:
        for name, e in found.items():
            error = f" ± {e.stderr:.2g}" if e.stderr is not None else ""
            note = "" if e.status == "ok" else f"  {e.status}: {e.message}"
            click.echo(f"{name}: {e.value:.6g}{error}  ({len(e.per_batch)} batches){note}")
            for key, value in e.extras.items():
                click.echo(f"    {key}: {value:.6g}" if isinstance(value, float) else f"    {key}: {value}")
    return 0 if all(e.status == "ok" for e in found.values()) else 1


def _evaluate(
    net: nn.Module, data: tuple[Any, Tensor], measures: tuple[str, ...], settings: dict[str, Any], m: int,
    seed: int, device: str | None, dtype: str | None, initial: nn.Module | None,
) -> dict[str, Any]:  # fmt: skip
    from acutance.api import measure

    return {
        name: measure(
            name, net, data, m=min(m, len(data[1])), seed=seed, device=device, dtype=dtype, initial=initial, **settings
        )
        for name in measures
    }


def _row(e: Any) -> dict[str, Any]:
    return {
        "value": e.value, "stderr": e.stderr, "status": e.status.value, "message": e.message,
        "per_batch": list(e.per_batch), "extras": dict(e.extras),
        "cost": {"forwards": e.cost.forwards, "backwards": e.cost.backwards, "hvps": e.cost.hvps},
    }  # fmt: skip


def _data(source: str, points: int | None) -> tuple[Any, Tensor]:
    """Open a file or a registered dataset's split, and keep the asked number of points."""
    from acutance.batch import take_rows
    from acutance.checkpoints import read_arrays
    from acutance.lazy import realised
    from acutance.points import select

    path = Path(source)
    if path.suffix in (".npz", ".safetensors"):
        inputs, targets = read_arrays(path)
    else:
        name, _, split = source.partition(":")
        opened = catalog().get("datasets", name)().open(split or "train")
        inputs, targets = opened.inputs, opened.targets
    if points is None:
        return inputs, targets
    chosen = select(targets, points, "first" if targets.is_floating_point() else "balanced")
    return realised(take_rows(inputs, chosen)), targets[chosen]


def _pool_model(name: str, with_initial: bool) -> tuple[nn.Module, nn.Module | None, Any]:
    """Return a model of a pool, its initial weights when they are asked for, and what it needs done to the inputs."""
    item, entry_id = _pool_and_entry(name)
    pool, spec = item.target(), item.target.Spec()
    entries = {entry.id: entry for entry in pool.entries(spec)}
    if entry_id not in entries:
        problem = f"has no model '{entry_id}'" if entry_id else "is a pool: name one of its models"
        raise UserError(f"MODEL {name}: '{item.id}' {problem}", did_you_mean(entry_id, list(entries)))
    entry = entries[entry_id]
    if pool.missing([entry], spec):
        pool.build(entry, spec)
    initial = pool.initial(entry, spec) if with_initial else None
    return pool.load(entry, spec), initial, pool.preprocess(entry, spec)


def _pool_and_entry(name: str) -> tuple[Item, str]:
    """Return the pool and the entry of ``POOL/ENTRY`` or ``DIST/POOL/ENTRY``."""
    pools = catalog().items("pools")
    first, *others = name.split("/")
    canonical = f"{first}/{others[0]}"
    # A short name wins unless the first two parts are an id: an entry's own id may hold a slash.
    if any(item.id == canonical for item in pools) or (others[1:] and all(item.name != first for item in pools)):
        return catalog().find("pools", canonical), "/".join(others[1:])
    return catalog().find("pools", first), "/".join(others)
