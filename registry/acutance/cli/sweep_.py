"""``acutance sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from acutance.workflows.sweeps import Sweep


@click.command("sweep")
@click.argument("config")
@click.option("--over", required=True, metavar="KEY[,KEY]=V,V", help="The swept setting, or settings, and its values.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the sweep; runs/<name>-<setting> by default.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value in every study.")
@click.option("--device", help="cpu, cuda, cuda:1 ...; the GPU when there is one.")
@click.option("--executor", help="Replace the study's executor: serial, processes ...")
@click.option("--limit", type=click.IntRange(1), help="At most this many models of each pool.")
@click.option("--no-report", is_flag=True, help="No HTML page and figures for the single runs.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    config: str,
    over: str,
    out: Path | None,
    overrides: tuple[str, ...],
    device: str | None,
    executor: str | None,
    limit: int | None,
    no_report: bool,
    quiet: bool,
) -> int:
    """Run CONFIG at every value of a setting, and print and draw how tau depends on it."""
    from acutance.cli.screen import console as wide_console
    from acutance.system.progress import reporter
    from acutance.workflows.sweeps import Axis, sweep

    axis, console = Axis.parse(over), wide_console()
    options: dict[str, Any] = {
        "overrides": overrides, "device": device, "executor": executor, "limit": limit, "report": not no_report,
    }  # fmt: skip
    with reporter(console, quiet) as shown:
        study_sweep = sweep(config, axis, out, reporter=shown, **options)
    if not quiet:
        print_sweep(study_sweep, console)
    if study_sweep.failed:
        message = f"{study_sweep.failed} without a number: the results.csv of each run says why; exit status 1"
        click.echo(message, err=True)
    return 1 if study_sweep.failed else 0


def print_sweep(study_sweep: Sweep, console: Console) -> None:
    """Print tau with its interval: a table for each target and level, a column for each value."""
    from acutance.analysis.judging import HOLDS
    from acutance.analysis.labels import Namer, target_label
    from acutance.cli.results_ import print_taus, shows_intervals

    table, axis = study_sweep.correlations, study_sweep.axis
    name = Namer(table.to_dict("records"))
    whole = table[table["group"] == "all"]
    intervals = shows_intervals(console, len(axis.values))
    for (target, level), part in whole.groupby(["target", "within"], sort=False):
        where = "" if level == "all" else f", {level}"
        title = f"Kendall's tau-a{' with 95% interval' * intervals}, {target_label(target)}{where}"
        heads = {value: str(value) for value in part[axis.name]}
        print_taus(console, part, title, axis.name, axis.name, heads, name, intervals)
    console.print(f"tau > 0: flatter models generalize better. * holds: {HOLDS}, within one value.")
    console.print(f"table: {study_sweep.directory}/sweep.csv; figures: {study_sweep.directory}/figures", soft_wrap=True)
