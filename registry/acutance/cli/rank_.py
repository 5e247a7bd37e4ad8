"""``acutance rank``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.cli.plugin_option import plugin_option

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from acutance.workflows.ranked import Ranked


@click.command("rank")
@click.argument("pool")
@plugin_option
@click.option("--points", required=True, help="The unlabelled points: file, or DATASET[:SPLIT], as measure --data.")
@click.option("--labels", multiple=True, metavar="[NAME=]DATA", help="Labelled points; may be given again.")
@click.option("--model", "architecture", default="", help="Architecture of checkpoints: timm:NAME, module:function ...")
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Argument of the architecture.")
@click.option(
    "--measure", "measures", multiple=True, metavar="NAME", help="Measure; all that need no labels by default."
)
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="Setting of the measures that have it.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and a page; keeps the models' outputs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Names groups of points, and noise.")
@click.option("--device", help="cpu, cuda ...")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(  # noqa: PLR0913
    pool: str, points: str, labels: tuple[str, ...], architecture: str, arguments: tuple[str, ...],
    measures: tuple[str, ...], fields: tuple[str, ...], out: Path | None, seed: int, device: str | None, json_: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Rank the models of POOL on points without labels, and say how sure that is.

    POOL is a folder or pattern of checkpoints, a CSV file that lists them, a folder of several transformers, a preset,
    a study file, or the name of a pool.
    """
    from acutance.cli.screen import console, echo
    from acutance.io.checkpoints import parse_pairs
    from acutance.system.devices import require_device
    from acutance.system.progress import reporter
    from acutance.workflows.ranking import rank

    if device is not None:
        require_device(device)
    given = {"architecture": architecture, "arguments": parse_pairs(arguments, "--arg")}
    settings = {name: value for name, value in given.items() if value}
    with reporter(console(sys.stderr), quiet or json_) as shown:
        result = rank(
            pool, points, _sets(labels), measures or None, settings=parse_pairs(fields, "--set"), pool=settings,
            out=out, seed=seed, device=device, reporter=shown,
        )  # fmt: skip
    for note in result.notes:
        echo(f"note: {note}", err=True)
    if json_:
        as_json(result.as_json())
    else:
        print_ranking(result, console())


def _sets(labels: tuple[str, ...]) -> dict[str, str] | None:
    """Return labelled points by name: ``validation`` where none is given.

    Raises:
        UserError: for a name given twice.
    """
    from acutance.errors import UserError

    sets: dict[str, str] = {}
    for text in labels:
        name, equals, source = text.partition("=")
        name, source = (name.strip(), source) if equals and "/" not in name else ("validation", text)
        if name in sets:
            raise UserError(f"--labels {text}: '{name}' is given twice", "give each set a name: --labels NAME=DATA")
        sets[name] = source
    return sets or None


def print_ranking(result: Ranked, screen: Console) -> None:
    """Print the verdict, a table of the models by each measure, agreement, and what choices cost."""
    from acutance.analysis.choosing import DIGITS
    from acutance.analysis.ranking import without_rounding
    from acutance.cli.screen import print_grid

    screen.print(result.verdict)
    for sentence in result.sentences:
        screen.print(f"  {sentence}")
    table = result.table.assign(value=without_rounding(result.table))
    cells = {(row["measure"], row["model"]): _place(row) for row in table.to_dict("records")}
    models = _in_order(result.table)
    rows = [[model, *(cells[name, model] for name in result.labels)] for model in models]
    print_grid(
        screen, "Ranks that each model can have (95% for all of a measure at once) and value", ["model"],
        list(result.labels), rows,
    )  # fmt: skip
    if len(result.agreement):
        taus = {(r["a"], r["b"]): r for r in result.agreement.to_dict("records")}
        # Numbers for names, and intervals in the tables and on the page: so the whole matrix is seen at once.
        numbers = {name: str(i) for i, name in enumerate(result.order, start=1)}
        rows = [
            [
                f"{numbers[a]} {a}",
                str(result.clusters[a]),
                *(_sign(taus.get((a, b)) or taus.get((b, a))) for b in numbers),
            ]
            for a in numbers
        ]
        print_grid(screen, "Agreement of measures, Kendall's tau-b", ["measure"], ["cluster", *numbers.values()], rows)
    for name, part in result.costs.groupby("set", sort=False):
        rows = [
            [
                r["measure"], r["chosen"], f"{r['error']:.4g}", f"{r['regret']:.3g} ± {round(r['stderr'], DIGITS):.2g}",
                f"{r['random']:.3g}", _tau(r), f"{r['off']:.3g}" if math.isfinite(r["off"]) else "-",
            ] for r in part.sort_values("regret", kind="stable").to_dict("records")
        ]  # fmt: skip
        heads = ["error", "regret", "by luck", "tau with error", "off by"]
        print_grid(screen, f"What a choice would have cost on {name}", ["measure", "chosen"], heads, rows)
    if len(result.choices):
        rows = [
            [r["set"], r["measure"], f"{r['regret']:.3g}", f"{r['random']:.3g}"]
            for r in result.choices.to_dict("records")
        ]
        print_grid(
            screen, "Measure that cost least on the other sets, on the one left out", ["left out", "measure"],
            ["regret", "by luck"], rows,
        )  # fmt: skip
    if result.directory is not None:
        screen.print(f"written: {result.directory / 'rank.html'}")


def _in_order(table: pd.DataFrame) -> list[str]:
    """Return the models by their mean rank."""
    means = table.groupby("model", sort=False)["rank"].mean()
    return [str(model) for model in means.sort_values(kind="stable").index]


def _place(row: dict[str, Any]) -> str:
    if not math.isfinite(row["value"]):
        return "no value"
    low, high = row["rank_low"], row["rank_high"]
    error = f" ± {row['stderr']:.2g}" if math.isfinite(row["stderr"]) else ""
    return f"{low if low == high else f'{low}–{high}'}  ({row['value']:.4g}{error})"


def _sign(row: dict[str, Any] | None) -> str:
    return "-" if row is None or not math.isfinite(row["tau"]) else f"{row['tau']:+.2f}"


def _tau(row: dict[str, Any]) -> str:
    between = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if math.isfinite(row["low"]) else ""
    return _sign(row) + between
