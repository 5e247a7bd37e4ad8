"""``acutance compare``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--setting", help="Which of the paper's tables 'published' is, e.g. cifar10_vit.")
@click.option("--target", "renamed", multiple=True, metavar="OURS=THEIRS", help="What a target of A is called in B.")
@click.option("--group", default="all", show_default=True, help="Subgroup, e.g. 'augment=1;mixup=0'.")
@click.option("--within", help="One level of A, e.g. 'architecture=resnet'.")
@click.option("--all", "everything", is_flag=True, help="List also what only one of them has.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the comparison to this CSV file.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    a: str, b: str, setting: str | None, renamed: tuple[str, ...], group: str, within: str | None, everything: bool,
    out: Path | None, json_: bool,
) -> None:  # fmt: skip
    """Set the correlations of A and B side by side: run directories, CSV files, or 'published' for the paper's."""
    from acutance.analysis.compare import compare
    from acutance.cli.screen import console
    from acutance.errors import UserError
    from acutance.io.spreadsheet import csv_text
    from acutance.io.written import put_file, require_ours
    from acutance.run.directory import RunDirectory, reading, refuse_replacing

    if setting is not None and "published" not in (a, b):
        raise UserError("--setting: is for 'published'", "write 'published' for A or B")
    first, second = open_side(a, setting), open_side(b, setting)
    first, second = choose(first, "group", group, f"--group: {a}"), choose(second, "group", group, f"--group: {b}")
    if within is not None:
        first = choose(first, "within", within, f"--within: {a}")
    if out is not None:
        sides = [Path(side) for side in (a, b)]
        refuse_replacing(out, [*sides, *(RunDirectory(side).file("correlations") for side in sides)])
        require_ours(out)
    click.get_current_context().with_resource(reading(Path(a), Path(b)))
    table = compare(first, second, defaults=defaults, targets=pairs(renamed), names=(a, b))
    if out is not None:
        put_file(out, csv_text(table))
    if json_:
        as_json(table.astype(object).where(table.notna(), None).to_dict(orient="records"))
    else:
        print_comparison(table, console(), (a, b), everything)


def open_side(source: str, setting: str | None) -> pd.DataFrame:
    """Return the correlations of a run directory, of a table made elsewhere, or of the paper.

    Raises:
        UserError: for what is none of these, and for ``published`` without a setting.
    """
    from acutance.analysis.definitions import numeric_radii
    from acutance.analysis.external import numbers, require
    from acutance.analysis.published import published
    from acutance.errors import UserError
    from acutance.io.spreadsheet import unescape_table
    from acutance.io.tables import read_table
    from acutance.run.directory import RunDirectory

    path = Path(source)
    if source == "published" and not path.exists():
        if setting is None:
            settings = ", ".join(dict.fromkeys(published()["setting"]))
            raise UserError("--setting: say which of the paper's tables to compare with", f"one of {settings}")
        table = published(setting).assign(within=setting)
    elif path.is_dir():
        table = RunDirectory(path).table("correlations")
    else:
        table, _ = read_table(path)
        # Written by `--out`, it may hold texts that are kept from being formulas.
        table = unescape_table(table)
        require(table, ["measure", "target", "tau"], source)
        for name in {"tau", "low", "high", "n", "p", "p_adjusted", "p_fdr", "ceiling"} & set(table.columns):
            table[name] = numbers(table, name, source)
        table = numeric_radii(table, source)
        if "within" not in table and "setting" in table:
            table = table.assign(within=table["setting"])
    missing = {name: "all" for name in ("within", "group") if name not in table}
    return table.assign(**missing)


def choose(table: pd.DataFrame, column: str, value: str, where: str) -> pd.DataFrame:
    """Return the rows of one group or level.

    Args:
        table: correlations.
        column: ``group`` or ``within``.
        value: of that column.
        where: the option and the table, for messages.

    Raises:
        UserError: when there is none of that name.
    """
    from acutance.errors import UserError, did_you_mean

    chosen = table[table[column].astype(str) == value]
    if not len(chosen):
        values = list(dict.fromkeys(map(str, table[column])))
        raise UserError(f"{where} has no '{value}'", did_you_mean(value, values))
    return chosen


def pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """Return ``("ours=theirs",)`` as a mapping; a target's settings may hold ``=`` within brackets."""
    from acutance.errors import UserError

    renamed = {}
    for text in texts:
        depth = 0
        for i, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if letter == "=" and depth == 0 and text[:i].strip() and text[i + 1 :].strip():
                renamed[text[:i].strip()] = text[i + 1 :].strip()
                break
        else:
            raise UserError(f"--target {text}: write OURS=THEIRS", "for example --target corruptions.error=CIFAR-10-C")
    return renamed


def defaults(measure: str) -> Mapping[str, Any]:
    """Return the settings that a measure has where nothing is written; none where it is not installed."""
    from acutance.errors import UserError
    from acutance.plugins import catalog

    try:
        fields = catalog().find("measures", measure).target.Spec.model_fields
    except UserError:
        return {}
    return {name: f.get_default(call_default_factory=True) for name, f in fields.items() if not f.is_required()}


def print_comparison(table: pd.DataFrame, console: Console, names: tuple[str, str], everything: bool) -> None:
    """Print a table for each pair of levels, a row for each definition and target; then what only one side has."""
    from acutance.analysis.labels import Namer, definition_label, target_label
    from acutance.cli.screen import print_grid

    # Each side has names of its own: a field that only one side has does not distinguish that side's definitions.
    only_b = table["found"] == "b"
    names_a, names_b = (Namer(table[mask].to_dict("records")) for mask in (~only_b, only_b))
    both = table[table["found"] == "both"]
    shown = table if everything else both
    for (within, group), part in shown.groupby(["within", "group"], sort=False):
        title = f"Kendall's tau, {within}{'' if group == 'all' else f', {group}'}"
        rows = []
        for row in part.to_dict("records"):
            target = target_label(str(row["target"]))
            if isinstance(row["target_b"], str) and row["target_b"] != row["target"]:
                target += f" ({target_label(row['target_b'])})"
            cells = [_tau(row, side, names[i]) for i, side in enumerate("ab")]
            difference = f"{row['difference']:+.2f}" if math.isfinite(row["difference"]) else ""
            inside = {True: "yes", False: "no"}.get(row["inside"], "")
            label = definition_label(row, names_b if row["found"] == "b" else names_a)
            rows.append([label, target, *cells, difference, inside])
        print_grid(console, title, ["definition", "target"], [*names, "difference", "in interval"], rows)
    judged = both[both["inside"].notna()]
    lines = [f"{len(both)} correlations are in both."]
    if len(judged):
        lines.append(
            f"{int(judged['inside'].sum())} of {len(judged)} of {names[1]} lie in the 95% interval of {names[0]}."
        )
    counts = [(names[i], int((table["found"] == side).sum())) for i, side in enumerate("ab")]
    lines += [f"{count} only in {who}." for who, count in counts if count]
    if any(count for _, count in counts) and not everything:
        lines.append("List them with --all.")
    console.print(" ".join(lines))


def _tau(row: Mapping[str, Any], side: str, name: str) -> str:
    """Return tau with its interval, or why there is none."""
    tau, low, high = (row[f"{column}_{side}"] for column in ("tau", "low", "high"))
    if row["found"] not in ("both", side):
        return "not published" if name == "published" else "not there"
    if not math.isfinite(tau):
        return "-"
    return f"{tau:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else "")
