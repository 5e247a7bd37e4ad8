"""``acutance sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from acutance.sweeps import Sweep


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
    from acutance.cli.results_ import console as wide_console
    from acutance.progress import Bars, Lines, Silent
    from acutance.sweeps import Axis, sweep

    axis, console = Axis.parse(over), wide_console()
    options: dict[str, Any] = {
        "overrides": overrides, "device": device, "executor": executor, "limit": limit, "report": not no_report,
    }  # fmt: skip
    if quiet:
        found = sweep(config, axis, out, reporter=Silent(), **options)
    elif console.is_terminal:
        with Bars(console) as bars:
            found = sweep(config, axis, out, reporter=bars, **options)
    else:
        found = sweep(config, axis, out, reporter=Lines(console), **options)
    if not quiet:
        print_sweep(found, console)
    return 1 if found.failed else 0


def print_sweep(found: Sweep, console: Console) -> None:
    """Print tau with its interval: a table for each target and level, a column for each value."""
    from rich.table import Table

    from acutance.analysis.labels import Namer, definition_label, target_label
    from acutance.cli.results_ import _cell

    table, axis = found.correlations, found.axis
    name = Namer(table.to_dict("records"))
    whole = table[table["group"] == "all"]
    intervals = console.width >= 52 + 24 * len(axis.values)
    for (target, level), part in whole.groupby(["target", "within"], sort=False):
        where = "" if level == "all" else f", {level}"
        title = f"Kendall's tau-a{' with 95% interval' * intervals}, {target_label(target)}{where}"
        shown = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
        shown.add_column(axis.name, no_wrap=True)
        values = list(dict.fromkeys(part[axis.name]))
        for value in values:
            shown.add_column(str(value), justify="right", no_wrap=True)
        labels = part.apply(definition_label, axis=1, name=name)
        for label in dict.fromkeys(labels):
            rows = part[labels == label].set_index(axis.name)
            shown.add_row(label, *(_cell(rows.loc[v], intervals) if v in rows.index else "" for v in values))
        console.print(shown)
    console.print("tau > 0: flatter models generalize better. * adjusted p < 0.05, within one value.", highlight=False)
    console.print(f"table: {found.directory}/sweep.csv; figures: {found.directory}/figures", highlight=False)
