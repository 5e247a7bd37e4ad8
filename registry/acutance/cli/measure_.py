"""``acutance measure``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.errors import AcutanceWarning, UserError, did_you_mean
from acutance.measure import ALONE, Estimate
from acutance.plugins import Item, catalog
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import validate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from acutance.dataset import Dataset
    from acutance.surface.open_model import OpenModel


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
@click.option(
    "--data", required=True, help="File of arrays or texts, or DATASET[:SPLIT]; FILE:SPLIT for x_test, y_test."
)
@click.option("--data-arg", "data_arguments", multiple=True, metavar="KEY=VALUE", help="Setting of the dataset.")
@click.option("--measure", "measures", required=True, multiple=True, help="Name of a measure; may be given again.")
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="Setting of the measures, e.g. rho=0.002.")
@click.option("--points", type=click.IntRange(1), help="Use this many points, classes in turn.")
@click.option("-m", "m", type=click.IntRange(1), help="Examples in one m-batch; 128, or all points if fewer.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Names the noise.")
@click.option("--device", help="cpu, cuda ...")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="The model's own by default.")
@click.option("--explain", is_flag=True, help="Say in words what each value means and how far to trust it.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(**options: Any) -> int:
    """Evaluate measures on one checkpoint.

    MODEL is package.module:function, timm:NAME, the folder of a transformer, or POOL/ENTRY of a pool, whose name may be
    its canonical id (mnist_resnet/mnist_resnet_000, acutance/mnist_resnet/mnist_resnet_000).
    """
    from acutance.api import measure
    from acutance.io.checkpoints import parse_pairs
    from acutance.system.devices import require_device

    asked = Asked(**options)
    if asked.device is not None:
        require_device(asked.device)
    settings = parse_pairs(asked.fields, "--set")
    needs, levels = _needed(asked.measures, settings)
    member = _member(asked.model)
    wanted = member.pool.data_settings(member.entry, member.spec) if member else {}
    dataset, points = _data(asked.data, wanted, parse_pairs(asked.data_arguments, "--data-arg"), asked.points)
    net = _loaded(asked, member)
    load_notes = tuple(vars(net).get("load_notes", ()))
    for sentence in load_notes:
        click.echo(f"note: {sentence}", err=True)
    opened = _opened(asked, member, dataset, net, needs)
    points, m = _prepared(asked, opened, points, levels)
    estimates = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AcutanceWarning)  # the estimates have them as notes, which are printed
        for name in asked.measures:
            estimates[name] = measure(name, opened, points, m=m, seed=asked.seed, **settings)
    for sentence in dict.fromkeys(sentence for e in estimates.values() for sentence in e.notes):
        if sentence not in load_notes:
            click.echo(f"note: {sentence}", err=True)
    _print(asked, estimates)
    return 0 if all(e.status == "ok" for e in estimates.values()) else 1


@dataclass(frozen=True)
class Asked:
    """What is asked for, by option."""

    model: str
    weights: Path | None
    key: str
    prefix: str
    arguments: tuple[str, ...]
    data: str
    data_arguments: tuple[str, ...]
    measures: tuple[str, ...]
    fields: tuple[str, ...]
    points: int | None
    m: int | None
    seed: int
    device: str | None
    dtype: str | None
    explain: bool
    json_: bool


def _needed(measures: Sequence[str], settings: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return what measures need and the levels that they are of.

    Raises:
        UserError: for a mistake in a setting, or a measure that compares models, before anything is loaded.
    """
    needs: set[str] = set()
    levels: set[str] = set()
    for name in measures:
        instance = catalog().measure(name)
        spec = validate(instance.Spec, settings, name)
        needs |= instance.needs(spec)
        levels.add(level := instance.level_of(spec))
        if level == "pool":
            raise UserError(ALONE.format(name=name), "acutance run CONFIG")
    return needs, levels


def _loaded(asked: Asked, member: _Member | None) -> nn.Module:
    """Return the model with its weights."""
    from acutance.io.checkpoints import load_file, make_model, parse_pairs

    if member is not None:
        net = member.loaded()
    else:
        net = make_model(asked.model, parse_pairs(asked.arguments, "--arg"))
        if asked.weights is None:
            click.echo(f"note: {_unloaded(asked.model)}", err=True)
    if asked.weights is not None:
        load_file(net, asked.weights, asked.key, asked.prefix)
    elif asked.key or asked.prefix:
        raise UserError("--key and --prefix say where in --weights the state lies", "give --weights FILE")
    return net


def _opened(
    asked: Asked, member: _Member | None, dataset: Dataset[Any] | None, net: nn.Module, needs: set[str]
) -> OpenModel:
    from acutance.surface.open_model import OpenModel

    if member is None:
        return OpenModel(net, asked.model, dataset, asked.device, asked.dtype)
    return OpenModel.entry(member.pool, member.spec, member.entry, dataset, asked.device, asked.dtype, net, needs)


def _prepared(
    asked: Asked, opened: OpenModel, points: tuple[Any, Tensor], levels: set[str]
) -> tuple[tuple[Any, Tensor], int]:
    """Return the points as the model sees them, held to it as far as the measures need them, and m."""
    from acutance.data.forms import refuse_nonfinite
    from acutance.data.lazy import applied
    from acutance.workflows.notebook import M

    inputs, targets = points
    prepared, m = applied(opened.preprocess, inputs), asked.m or min(M, len(targets))
    if levels - {"weights"}:
        refuse_nonfinite(prepared, targets, f"--data {asked.data}")
        opened.require_fit(inputs, targets, "cross_entropy", f"--data {asked.data}")
    if "batch" in levels:
        _fit(opened, prepared, targets, m)
    return (prepared, targets), m


def _print(asked: Asked, estimates: Mapping[str, Estimate]) -> None:
    if asked.json_:
        rows = {
            name: _row(e) | ({"explanation": e.explain()} if asked.explain else {}) for name, e in estimates.items()
        }
        as_json(rows)
    elif asked.explain:
        click.echo("\n\n".join(e.explain() for e in estimates.values()))
    else:
        for name, e in estimates.items():
            error = f" ± {e.stderr:.2g}" if e.stderr is not None else ""
            note = "" if e.status == "ok" else f"  {e.status}: {e.message}"
            click.echo(f"{name}: {e.value:.6g}{error}  ({len(e.per_batch)} batches){note}")
            for key, value in e.extras.items():
                click.echo(f"    {key}: {value:.6g}" if isinstance(value, float) else f"    {key}: {value}")


def _row(e: Estimate) -> dict[str, Any]:
    return {
        "value": e.value, "stderr": e.stderr, "status": e.status.value, "message": e.message,
        "per_batch": list(e.per_batch), "extras": dict(e.extras), "notes": list(e.notes),
        "cost": {"forwards": e.cost.forwards, "backwards": e.cost.backwards, "hvps": e.cost.hvps},
    }  # fmt: skip


def _fit(opened: OpenModel, inputs: Any, targets: Tensor, m: int) -> None:
    """Cut the passes over an m-batch to what memory holds, and say so."""
    from acutance.data.points import m_batches
    from acutance.surface.loss_surface import LossSurface

    opened.fit(LossSurface(opened.functional, next(iter(m_batches(inputs, targets, m)))))
    if opened.microbatch is not None:
        click.echo(f"note: memory holds {opened.microbatch} of the {m} examples in one pass", err=True)


def _unloaded(model: str) -> str:
    """Return what is measured where no weights are given."""
    if model.startswith(("timm:", "torchvision:")):
        return f"no --weights: {model} is measured freshly initialised, with random weights"
    return f"no --weights: {model} is measured as it is made, with random weights unless its function loads others"


def _data(
    source: str, asked: Mapping[str, Any], settings: Mapping[str, Any], points: int | None
) -> tuple[Dataset[Any] | None, tuple[Any, Tensor]]:
    """Open a file or a registered dataset's split, and keep the asked number of points.

    Args:
        source: of ``--data``.
        asked: settings that the model asks for, where the dataset has them.
        settings: of ``--data-arg``.
        points: how many; all by default.
    """
    from acutance.data.batch import take_rows
    from acutance.data.lazy import realised
    from acutance.data.points import select
    from acutance.io.data_files import SUFFIXES, read_points

    name, _, split = source.rpartition(":") if ":" in source else (source, "", "")
    dataset = None
    if Path(name).suffix in SUFFIXES:
        if settings:
            raise UserError(f"--data-arg: {name} holds arrays and has no settings", "leave it out")
        inputs, targets = read_points(Path(name), split)
    else:
        dataset = _dataset(name, asked, settings)
        opened = dataset.open(split or "train")
        inputs, targets = opened.inputs, opened.targets
    if points is not None:
        rule = "first" if targets.is_floating_point() else "balanced"
        chosen = select(targets, points, rule, "--points", f"--data {source}")
        inputs, targets = realised(take_rows(inputs, chosen)), targets[chosen]
    return dataset, (inputs, targets)


def _dataset(name: str, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> Dataset[Any]:
    """Return a dataset by its name, or the one that reads a file."""
    from acutance.io.data_files import SUFFIXES

    path, datasets = Path(name), [item.target for item in catalog().usable("datasets")]
    reads = [target for target in datasets if path.suffix and path.suffixes[-1] in target.suffixes]
    if path.suffix == ".gz":
        reads = [target for target in datasets if Path(path.stem).suffix in target.suffixes]
    if not reads and (path.suffix or path.exists()):
        every = (*SUFFIXES, *(suffix for target in datasets for suffix in target.suffixes))
        raise UserError(f"--data {name}: is of no kind that can be read", f"{', '.join(every)}, or DATASET[:SPLIT]")
    target = reads[0] if reads else catalog().get("datasets", name)
    fields = target.Spec.model_fields
    chosen = {key: value for key, value in asked.items() if key in fields}
    file = target.settings_for(path) if reads else {}
    dataset: Dataset[Any] = target(validate(target.Spec, {**file, **chosen, **settings}, f"--data {name}"))
    return dataset


@dataclass(frozen=True)
class _Member:
    """One model of a pool."""

    pool: ModelPool[Any]
    spec: Any
    entry: ModelEntry

    def loaded(self) -> nn.Module:
        """Return the model, made first where it is missing."""
        if self.pool.missing([self.entry], self.spec):
            self.pool.build(self.entry, self.spec)
        return self.pool.load(self.entry, self.spec)


def _member(name: str) -> _Member | None:
    """Return the model of a pool that a name or a folder means; None for a model that a function makes."""
    from acutance.io.checkpoint_files import is_checkpoint

    if Path(name).is_dir():
        for item in catalog().usable("pools"):
            settings = item.target.settings_for(Path(name))
            if settings is not None:
                pool, spec = item.target(), validate(item.target.Spec, settings, item.name)
                return _Member(pool, spec, pool.entries(spec)[0])
    if "/" not in name or ":" in name or (is_checkpoint(name) and Path(name).is_file()):
        return None
    item, entry_id = _pool_and_entry(name)
    pool, spec = item.target(), item.target.Spec()
    entries = {entry.id: entry for entry in pool.entries(spec)}
    if entry_id not in entries:
        problem = f"has no model '{entry_id}'" if entry_id else "is a pool: name one of its models"
        raise UserError(f"MODEL {name}: '{item.id}' {problem}", did_you_mean(entry_id, list(entries)))
    return _Member(pool, spec, entries[entry_id])


def _pool_and_entry(name: str) -> tuple[Item, str]:
    """Return the pool and the entry of ``POOL/ENTRY`` or ``DIST/POOL/ENTRY``."""
    pools = catalog().items("pools")
    first, *others = name.split("/")
    canonical = f"{first}/{others[0]}"
    # A short name wins unless the first two parts are an id: an entry's own id may hold a slash.
    if any(item.id == canonical for item in pools) or (others[1:] and all(item.name != first for item in pools)):
        return catalog().find("pools", canonical), "/".join(others[1:])
    return catalog().find("pools", first), "/".join(others)
