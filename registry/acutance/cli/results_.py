"""``acutance results``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.run.directory import TABLES, RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from acutance.analysis.labels import Namer


@click.command("results")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--table",
    metavar="NAME",
    default="correlations",
    show_default=True,
    help="Which table: correlations, results, models, or that of a statistic, see 'acutance list statistics'.",
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
    from acutance.cli.screen import console, echo_data
    from acutance.errors import UserError
    from acutance.io.spreadsheet import csv_text
    from acutance.run.directory import reading

    folder = RunDirectory(directory)
    check_table(folder, table)
    data = folder.table(table)
    click.get_current_context().with_resource(reading(directory))
    if json_:
        as_json(data.to_dict(orient="records"))
    elif everything or table != "correlations":
        if format_ in ("markdown", "latex"):
            raise UserError(f"--format {format_}: is for the correlations in the paper's layout", "write --format csv")
        echo_data(csv_text(data))
    elif format_ != "text":
        print_tables(data, group, format_)
    else:
        print_summary(data, console(), group)


def check_table(directory: RunDirectory, table: str) -> None:
    """Refuse a table that no run has, and say why that of a statistic that failed is not there.

    Raises:
        UserError: naming the nearest one that is.
    """
    from acutance.errors import UserError, did_you_mean
    from acutance.run.statistics import table_names

    known = [*TABLES[::-1], *table_names(directory)]
    if table not in known:
        raise UserError(f"--table: there is no table '{table}'", did_you_mean(table, known))
    about = directory.recorded().get(table)
    if about is not None and about.fault:
        raise UserError(f"--table {table}: {about.fault.rstrip('.')}", "make it work, and give the run again")


def print_tables(correlations: pd.DataFrame, group: str, format_: str) -> None:
    """Print the tables of all levels in the layout of the paper's Tables 1-4."""
    from acutance.cli.screen import echo_data
    from acutance.report.page.markup import FORMATS
    from acutance.report.tables import tau_tables

    check_group(correlations, group)
    echo_data(FORMATS[format_](tau_tables(correlations, group)))


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
        last = ["ceiling: a perfect measure", *(_ceiling(part, target) for target in heads)] if ceilings else []
        print_taus(console, part, title, "definition", "target", heads, name, intervals, last)
    console.print(f"tau > 0: flatter models generalize better. * holds: {HOLDS}.")


def _ceiling(part: pd.DataFrame, target: Any) -> str:
    """Return what a perfect measure is expected to show; a range where definitions have noise of their own."""
    ceilings = part.loc[part["target"] == target, "ceiling"].dropna()
    if ceilings.empty:
        return ""
    low, high = f"{ceilings.min():+.2f}", f"{ceilings.max():+.2f}"
    return low if low == high else f"{low} to {high}"


def shows_intervals(console: Console, columns: int) -> bool:
    """Return whether there is room for intervals beside so many taus."""
    return console.width >= 28 + 24 * min(columns, 3)


def print_taus(
    console: Console, part: pd.DataFrame, title: str, corner: str, by: str, heads: Mapping[Any, str], name: Namer,
    intervals: bool, last: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print tau as a table that fits: a row for each definition, a column for each value of ``by``.

    Args:
        console: where to.
        part: rows of a table of correlations, one for each definition and value.
        title: headline.
        corner: heading of the definitions.
        by: column whose values are the columns.
        heads: their headings, in order.
        name: tells definitions apart.
        intervals: whether each tau has its interval beside it.
        last: a row below the others.
    """
    from acutance.analysis.labels import definition_key, definition_label
    from acutance.cli.screen import print_grid

    cells: dict[Any, dict[Any, str]] = {}
    labels: dict[Any, str] = {}
    for row in part.to_dict("records"):
        # Two definitions that are called the same stay two rows.
        key = (definition_key(row), str(row.get("spec.rho")))
        labels.setdefault(key, definition_label(row, name))
        cells.setdefault(key, {})[row[by]] = _cell(row, intervals)
    rows = [[labels[key], *(texts.get(value, "") for value in heads)] for key, texts in cells.items()]
    print_grid(console, title, [corner], list(heads.values()), rows, last)


def _cell(row: Mapping[str, Any], with_interval: bool) -> str:
    """Return tau as a cell of a table, with its interval where that is wanted."""
    import math

    from acutance.analysis.judging import holds

    if not math.isfinite(row["tau"]):
        return "-"
    interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if with_interval and math.isfinite(row["low"]) else ""
    return f"{row['tau']:+.2f}{interval}" + ("*" if holds(row) else " ")
