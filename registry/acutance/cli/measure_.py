"""``acutance measure``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.cli.plugin_option import plugin_option
from acutance.errors import AcutanceWarning, UserError
from acutance.measure import ALONE, Estimate
from acutance.plugins import catalog
from acutance.spec import validate
from acutance.workflows.named import Member, member, points_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from acutance.dataset import Dataset
    from acutance.surface.open_model import OpenModel


@click.command("measure")
@plugin_option
@click.argument("model")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Checkpoint: .safetensors, .npz, .pt, .ckpt ...",
)
@click.option("--key", default="", metavar="KEY", help="Where in the checkpoint the state lies, e.g. ema.model.")
@click.option("--prefix", default="", metavar="PREFIX", help="Taken off the names in the checkpoint.")
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Argument of the model's function.")
@click.option("--initial", type=click.Path(path_type=Path), help="Checkpoint of the weights that training began from.")
@click.option("--data", help="File of arrays or texts, or DATASET[:SPLIT]; FILE:SPLIT for x_test, y_test.")
@click.option("--data-arg", "data_arguments", multiple=True, metavar="KEY=VALUE", help="Setting of the dataset.")
@click.option("--validation", metavar="DATA", help="Labelled points beside those, for measures that look at them.")
@click.option("--log", type=click.Path(path_type=Path), help="What training wrote down: CSV or JSON lines.")
@click.option("--num-train", type=click.IntRange(1), help="Size of the training set, the m of bounds; all points.")
@click.option("--measure", "measures", required=True, multiple=True, help="Name of a measure; may be given again.")
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="Setting of the measures, e.g. rho=0.002.")
@click.option("--points", type=click.IntRange(1), help="Use this many points, classes in turn.")
@click.option("-m", "m", type=click.IntRange(1), help="Examples in one m-batch; 128, or all points if fewer.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Names the noise.")
@click.option("--device", help="cpu, cuda ...")
@click.option("--dtype", type=click.Choice(["float32", "float64", "native"]), help="The model's own by default.")
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
    needs, levels, labelled = _needed(asked, settings)
    of_pool = member(asked.model)
    wanted = of_pool.pool.data_settings(of_pool.entry, of_pool.spec) if of_pool else {}
    dataset, points = None, None
    if asked.data is not None:
        data_settings = parse_pairs(asked.data_arguments, "--data-arg")
        dataset, points = points_of(asked.data, wanted, data_settings, asked.points, labelled=labelled)
    net = _loaded(asked, of_pool)
    load_notes = tuple(vars(net).get("load_notes", ()))
    for sentence in load_notes:
        click.echo(f"note: {sentence}", err=True)
    start = _initial(asked, net)
    opened = _opened(asked, of_pool, dataset, net, needs)
    given, m = (None, None) if points is None else _prepared(asked, opened, points, levels)
    beside: dict[str, Any] = {"initial": start, "log": asked.log, "num_train": asked.num_train}
    if asked.validation is not None:
        beside["validation"] = _validation(asked, opened, wanted)
    estimates: dict[str, Estimate] = {}
    said = set(load_notes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AcutanceWarning)  # the estimates have them as notes, which are printed
            for name in dict.fromkeys(asked.measures):
                estimate = measure(name, opened, given, m=m, seed=asked.seed, **beside, **settings)
                _show(asked, name, estimate, said, first=not estimates)
                estimates[name] = estimate
    except BaseException as end:
        if not isinstance(end, Exception):
            end.add_note(f"{len(estimates)} of {len(asked.measures)} values were there, and are printed")
        raise
    finally:
        # What was computed is not lost with what comes after it: an end of the program, a measure that is refused.
        if asked.json_ and estimates:
            _print_json(asked, estimates)
    return 0 if all(e.status == "ok" for e in estimates.values()) else 1


@dataclass(frozen=True)
class Asked:
    """What is asked for, by option."""

    model: str
    weights: Path | None
    key: str
    prefix: str
    arguments: tuple[str, ...]
    initial: Path | None
    data: str | None
    validation: str | None
    log: Path | None
    num_train: int | None
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


def _needed(asked: Asked, settings: dict[str, Any]) -> tuple[set[str], set[str], str | None]:
    """Return what measures need, the levels that they are of, and who needs targets, where one does.

    Raises:
        UserError: for a mistake in a setting, a measure that compares models, or one that looks at points where none
            are given, before anything is loaded.
    """
    needs: set[str] = set()
    levels: set[str] = set()
    labelled: str | None = None
    for name in asked.measures:
        instance = catalog().measure(name)
        spec = validate(instance.Spec, settings, name)
        needs |= (own := instance.needs(spec))
        levels.add(level := instance.level_of(spec))
        if level != "weights" and "unlabeled" not in own:
            labelled = labelled or f"measure '{name}'"
        if level == "pool":
            raise UserError(ALONE.format(name=name), "acutance run CONFIG")
        if level != "weights" and asked.data is None:
            raise UserError(f"measure '{name}' looks at points", "give --data FILE or DATASET[:SPLIT]")
    if asked.data is None and (asked.data_arguments or asked.points is not None):
        raise UserError("--data-arg and --points are about --data", "give --data FILE or DATASET[:SPLIT]")
    return needs, levels, labelled


def _loaded(asked: Asked, of_pool: Member | None) -> nn.Module:
    """Return the model with its weights."""
    from acutance.io.checkpoints import load_file, make_model, parse_pairs

    if of_pool is not None:
        net = of_pool.loaded()
    else:
        net = make_model(asked.model, parse_pairs(asked.arguments, "--arg"))
        if asked.weights is None:
            click.echo(f"note: {_unloaded(asked.model)}", err=True)
    if asked.weights is not None:
        load_file(net, asked.weights, asked.key, asked.prefix)
    elif (asked.key or asked.prefix) and asked.initial is None:
        raise UserError("--key and --prefix say where in --weights the state lies", "give --weights FILE")
    return net


def _initial(asked: Asked, net: nn.Module) -> nn.Module | None:
    """Return the network at the weights of ``--initial``: a file is read as ``--weights`` is, a folder as MODEL."""
    from acutance.io.checkpoints import load_file

    if asked.initial is None:
        return None
    if (of_pool := member(str(asked.initial))) is not None:
        return of_pool.loaded()
    return load_file(copy.deepcopy(net), asked.initial, asked.key, asked.prefix)


def _opened(
    asked: Asked, of_pool: Member | None, dataset: Dataset[Any] | None, net: nn.Module, needs: set[str]
) -> OpenModel:
    from acutance.surface.open_model import OpenModel

    if of_pool is None:
        return OpenModel(net, asked.model, dataset, asked.device, asked.dtype)
    return OpenModel.entry(of_pool.pool, of_pool.spec, of_pool.entry, dataset, asked.device, asked.dtype, net, needs)


def _validation(asked: Asked, opened: OpenModel, wanted: Mapping[str, Any]) -> tuple[Any, Tensor]:
    """Return the points of ``--validation`` as the model sees them; a dataset takes the settings of ``--data-arg``."""
    from acutance.data.forms import refuse_nonfinite
    from acutance.data.lazy import applied, realised
    from acutance.io.checkpoints import parse_pairs
    from acutance.io.data_files import SUFFIXES

    source, option = str(asked.validation), "--validation"
    arrays = any(Path(name).suffix in SUFFIXES for name in (source, source.rpartition(":")[0]))
    settings = {} if arrays else parse_pairs(asked.data_arguments, "--data-arg")
    _, (inputs, targets) = points_of(
        source, wanted, settings, None, option, labelled="every measure of validation points"
    )
    prepared = realised(applied(opened.preprocess, inputs))
    refuse_nonfinite(prepared, targets, f"{option} {source}")
    return prepared, targets


def _prepared(
    asked: Asked, opened: OpenModel, points: tuple[Any, Tensor], levels: set[str]
) -> tuple[tuple[Any, Tensor], int]:
    """Return the points as the model sees them, held to it as far as the measures need them, and m."""
    from acutance.data.forms import refuse_nonfinite
    from acutance.data.lazy import applied
    from acutance.workflows.sections import M

    inputs, targets = points
    prepared, m = applied(opened.preprocess, inputs), asked.m or min(M, len(targets))
    if levels - {"weights"}:
        refuse_nonfinite(prepared, targets, f"--data {asked.data}")
        opened.require_fit(inputs, targets, "cross_entropy", f"--data {asked.data}")
    if "batch" in levels:
        _fit(opened, prepared, targets, m)
    return (prepared, targets), m


def _show(asked: Asked, name: str, e: Estimate, said: set[str], first: bool) -> None:
    """Print a value as soon as it is there, and what there is to know that was not said before; JSON comes at the end.

    Args:
        asked: how.
        name: of the measure.
        e: its value.
        said: sentences; those that are new are added.
        first: whether none stands above it.
    """
    for sentence in e.notes:
        if sentence not in said:
            click.echo(f"note: {sentence}", err=True)
            said.add(sentence)
    if asked.json_:
        return
    if asked.explain:
        click.echo(("" if first else "\n") + e.explain())
        return
    error = f" ± {e.stderr:.2g}" if e.stderr is not None else ""
    note = "" if e.status == "ok" else f"  {e.status}: {e.message}"
    click.echo(f"{name}: {e.value:.6g}{error}  ({len(e.per_batch)} batches){note}")
    for key, value in e.extras.items():
        click.echo(f"    {key}: {value:.6g}" if isinstance(value, float) else f"    {key}: {value}")


def _print_json(asked: Asked, estimates: Mapping[str, Estimate]) -> None:
    as_json({name: _row(e) | ({"explanation": e.explain()} if asked.explain else {}) for name, e in estimates.items()})


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
