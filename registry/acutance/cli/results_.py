"""``acutance results``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from acutance.analysis.labels import Namer


TABLES = (
    "correlations", "results", "models", "associations", "ceilings", "confounds", "hypotheses", "pairwise", "radii",
    "verdicts",
)  # fmt: skip


@click.command("results")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--table",
    type=click.Choice(TABLES),
    default="correlations",
    show_default=True,
    help="Which table.",
)
@click.option("--group", default="all", show_default=True, help="Subgroup, e.g. 'augment=1;mixup=0'.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "csv", "markdown", "latex"]),
    default="text",
    show_default=True,
    help="Of the correlations, in the layout of the paper's tables; csv also of the other tables.",
)
@click.option("--all", "everything", is_flag=True, help="Every column and row, as CSV.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(directory: Path, table: str, group: str, format_: str, everything: bool, json_: bool) -> None:
    """Print the tables of the run in DIRECTORY."""
    from acutance.analysis.spreadsheet import csv_text
    from acutance.errors import UserError
    from acutance.outputs import read_csv

    data = read_csv(directory / f"{table}.csv")
    if json_:
        as_json(data.to_dict(orient="records"))
    elif everything or table != "correlations":
        if format_ in ("markdown", "latex"):
            raise UserError(f"--format {format_}: is for the correlations in the paper's layout", "write --format csv")
        click.echo(csv_text(data), nl=False)
    elif format_ != "text":
        print_tables(data, group, format_)
    else:
        print_summary(data, console(), group)


def console() -> Console:
    """Return where to print: the terminal, or lines wide enough for a table where there is none."""
    from rich.console import Console

    screen = Console()
    return screen if screen.is_terminal else Console(width=150)


def print_tables(correlations: pd.DataFrame, group: str, format_: str) -> None:
    """Print the tables of all levels in the layout of the paper's Tables 1-4."""
    from acutance.report.markup import FORMATS
    from acutance.report.tables import tau_tables

    check_group(correlations, group)
    click.echo(FORMATS[format_](tau_tables(correlations, group)), nl=False)


def check_group(correlations: pd.DataFrame, group: str) -> None:
    """Refuse a subgroup that no correlation is of.

    Raises:
        UserError: naming the nearest one that is.
    """
    from acutance.errors import UserError, did_you_mean

    groups = list(dict.fromkeys(map(str, correlations["group"])))
    if group not in groups:
        raise UserError(f"--group: there is no group '{group}'", did_you_mean(group, groups))


def print_summary(correlations: pd.DataFrame, console: Console, group: str = "all", variant: str = "a") -> None:
    """Print tau with its interval: a row for each definition, a column for each target."""
    from acutance.analysis.judging import HOLDS
    from acutance.analysis.labels import Namer, target_label

    check_group(correlations, group)
    chosen = correlations[correlations["group"] == group]
    heads = {target: target_label(target) for target in chosen["target"]}
    name = Namer(correlations.to_dict("records"))
    intervals = shows_intervals(console, len(heads))
    ceilings = "ceiling" in chosen and bool(chosen["ceiling"].notna().any())
    for within, part in chosen.groupby("within", sort=False):
        n = int(part["n"].max())
        title = f"Kendall's tau-{variant}{' with 95% interval' * intervals}, {within}, n = {n}" + (
            "" if group == "all" else f", {group}"
        )
        grid = tau_grid(part, title, "definition", "target", heads, name, intervals)
        if ceilings:
            grid.add_section()
            grid.add_row("ceiling: a perfect measure", *(_ceiling(part, target) for target in heads))
        console.print(grid)
    console.print(f"tau > 0: flatter models generalize better. * holds: {HOLDS}.", highlight=False)


def _ceiling(part: pd.DataFrame, target: Any) -> str:
    """Return what a perfect measure is expected to show; a range where definitions have noise of their own."""
    found = part.loc[part["target"] == target, "ceiling"].dropna()
    if found.empty:
        return ""
    low, high = f"{found.min():+.2f}", f"{found.max():+.2f}"
    return low if low == high else f"{low} to {high}"


def shows_intervals(console: Console, columns: int) -> bool:
    """Return whether there is room for intervals beside so many taus."""
    return console.width >= 52 + 24 * columns


def tau_grid(
    part: pd.DataFrame, title: str, corner: str, by: str, heads: Mapping[Any, str], name: Namer, intervals: bool
) -> Table:
    """Return tau as a table to print: a row for each definition, a column for each value of ``by``.

    Args:
        part: rows of a table of correlations, one for each definition and value.
        title: headline.
        corner: heading of the definitions.
        by: column whose values are the columns.
        heads: their headings, in order.
        name: tells definitions apart.
        intervals: whether each tau has its interval beside it.
    """
    from rich.table import Table

    from acutance.analysis.labels import definition_label

    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(corner, no_wrap=True)
    for head in heads.values():
        table.add_column(head, justify="right", no_wrap=True)
    labels = part.apply(definition_label, axis=1, name=name)
    for label in dict.fromkeys(labels):
        rows = part[labels == label].set_index(by)
        table.add_row(label, *(_cell(rows.loc[value], intervals) if value in rows.index else "" for value in heads))
    return table


def _cell(row: pd.Series, with_interval: bool) -> str:
    import math

    from acutance.analysis.judging import holds

    if not math.isfinite(row["tau"]):
        return "-"
    interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if with_interval and math.isfinite(row["low"]) else ""
    return f"{row['tau']:+.2f}{interval}" + ("*" if holds(row) else " ")
