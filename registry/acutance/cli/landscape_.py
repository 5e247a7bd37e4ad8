"""``acutance landscape``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.cli.plugin_option import plugin_option

if TYPE_CHECKING:
    from acutance.workflows.landscape.result import Landscape

KINDS = "random, gradient, eigenvectors, segment, plane, pca, or a measure that finds a point; two: FIRST,SECOND."


@click.command("landscape")
@click.argument("model")
@plugin_option
@click.option("--data", required=True, multiple=True, metavar="[NAME=]DATA", help="Points of a split; may be repeated.")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint: .safetensors, .npz, .pt, .ckpt ...")
@click.option("--key", default="", metavar="KEY", help="Where in checkpoints the state lies, e.g. ema.model.")
@click.option("--prefix", default="", metavar="PREFIX", help="Taken off the names in checkpoints.")
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Argument of the model's function.")
@click.option("--data-arg", "data_arguments", multiple=True, metavar="KEY=VALUE", help="Setting of the dataset.")
@click.option("--points", type=click.IntRange(1), help="Use this many points of each split, classes in turn.")
@click.option("--directions", default="random", show_default=True, metavar="KIND", help=KINDS)
@click.option("--checkpoint", "checkpoints", multiple=True, help="Other end of a segment ...: file, or POOL/ENTRY.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the measure, e.g. rho=0.05.")
@click.option("--grid", default=41, show_default=True, help="Points of each axis.")
@click.option("--extent", default=1.0, show_default=True, help="How far axes go, in units of the directions.")
@click.option("--dimensions", type=click.IntRange(1, 2), help="1 for a line, 2 for a plane.")
@click.option("--normalize", metavar="SCALING", help="filter, layer, elementwise, none; filter for random ones.")
@click.option("--draws", default=1, show_default=True, help="Lines along so many random directions.")
@click.option("--move-vectors", is_flag=True, help="Move biases and norm weights too, by filter and by layer.")
@click.option("--batch-norm", type=click.Choice(["eval", "recalibrated"]), help="Running statistics away from w*.")
@click.option("--parameters", default="all", show_default=True, help="Which move: patterns of names.")
@click.option("--no-curvature", is_flag=True, help="Do not estimate the share of the Hessian's trace.")
@click.option("--probes", default=32, show_default=True, help="Products with the Hessian for that, at most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Names random directions.")
@click.option("--executor", default="", metavar="NAME", help="Where points are computed: processes, ray ...")
@click.option("--executor-arg", "executor_arguments", multiple=True, metavar="KEY=VALUE", help="E.g. workers=4.")
@click.option("--device", help="cpu, cuda ...")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="The model's own by default.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for points, pictures and page.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(**options: Any) -> int:
    """Draw the loss of MODEL along directions in its weights.

    MODEL and DATA are named as for acutance measure; directions are those of the first split. The same command goes on
    where it was interrupted.
    """
    from acutance.cli.screen import console
    from acutance.io.checkpoints import parse_pairs
    from acutance.system.devices import require_device
    from acutance.system.progress import reporter
    from acutance.workflows.landscape.making import landscape
    from acutance.workflows.landscape.opening import Named

    if options["device"] is not None:
        require_device(options["device"])
    named = Named(
        options["model"], splits_of(options["data"]), str(options["weights"] or ""), options["key"],
        options["prefix"], parse_pairs(options["arguments"], "--arg"),
        parse_pairs(options["data_arguments"], "--data-arg"), options["points"], options["dtype"],
    )  # fmt: skip
    kinds = options["directions"].split(",")
    executor = {"name": options["executor"], **parse_pairs(options["executor_arguments"], "--executor-arg")}
    same = ("grid", "extent", "dimensions", "normalize", "draws", "batch_norm", "parameters", "probes", "seed",
            "device", "out")  # fmt: skip
    with reporter(console(sys.stderr), options["quiet"] or options["json_"]) as shown:
        seen = landscape(
            named, None, kinds[0] if len(kinds) == 1 else kinds, checkpoints=options["checkpoints"],
            settings=parse_pairs(options["settings"], "--set"), fixed_vectors=not options["move_vectors"],
            curvature=not options["no_curvature"], executor=executor if options["executor"] else None, reporter=shown,
            **{name: options[name] for name in same},
        )  # fmt: skip
    if options["json_"]:
        as_json({**seen.about, "computed": seen.computed, "directory": str(seen.directory)})
    else:
        _tell(seen)
    return 0 if (seen.table["status"] == "ok").any() else 1


def splits_of(data: tuple[str, ...]) -> dict[str, str]:
    """Return sources of points by the name of their split: what follows the colon of a source, unless it is given.

    Raises:
        UserError: for a name given twice.
    """
    from acutance.errors import UserError

    splits: dict[str, str] = {}
    for text in data:
        name, equals, source = text.partition("=")
        if not equals or "/" in name:
            source, name = text, text.rpartition(":")[2] if ":" in text else Path(text).stem
        if name in splits:
            raise UserError(f"--data: '{name}' is given twice", "name them: --data NAME=DATA")
        splits[name] = source
    return splits


def _tell(seen: Landscape) -> None:
    """Print what was drawn, and where it lies."""
    from acutance.cli.screen import echo
    from acutance.workflows.landscape.pictures import caption

    for note in seen.notes:
        echo(f"note: {note}", err=True)
    for line in caption(seen):
        echo(line)
    for split in seen.splits:
        rows = seen.table[(seen.table["split"] == split) & (seen.table["status"] == "ok")]
        if len(rows):
            echo(f"{split}: loss from {rows['loss'].min():.4g} to {rows['loss'].max():.4g}")
    echo(f"{seen.computed} points computed; {seen.directory}")
