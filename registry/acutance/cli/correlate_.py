"""``acutance correlate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json

if TYPE_CHECKING:
    from acutance.workflows.correlating import Tables

ROLES = ("targets", "measures", "model", "long", "groups", "within", "attributes", "colour", "marker", "size")


@click.command("correlate")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--targets", metavar="A,B", help="Columns to be predicted; those of the study for a run directory.")
@click.option("--measures", metavar="A,B", help="Columns that are to predict them; by default all other numbers.")
@click.option("--model", metavar="COLUMN", help="Column with the models' names.")
@click.option("--long", metavar="MEASURE,VALUE", help="One row a model and measure: these two columns.")
@click.option("--groups", metavar="A,B", help="Columns whose values form subgroups.")
@click.option("--within", metavar="A,B", help="Models are compared only where these columns agree.")
@click.option("--attributes", metavar="A,B", help="Further columns about models: confounds. By default what remains.")
@click.option("--colour", metavar="COLUMN", help="Attribute that colours the points of figures.")
@click.option("--marker", metavar="A,B", help="Attributes that are their markers; the groups by default.")
@click.option("--size", metavar="COLUMN", help="Attribute that is their size.")
@click.option("--columns", multiple=True, metavar="ROLE=A,B", help="The same in one option: --columns targets=error.")
@click.option("--points", multiple=True, metavar="N", help="Test points, or TARGET=N,...: for the noise ceiling.")
@click.option("--variant", type=click.Choice(["a", "b", "c"]), default="a", show_default=True, help="Of Kendall's tau.")
@click.option(
    "--nonfinite",
    type=click.Choice(["rank_max", "drop", "refuse"]),
    default="rank_max",
    show_default=True,
    help="What becomes of infinite values.",
)
@click.option("--seed", type=click.IntRange(0), help="Names resamples and permutations; 0, or that of the study.")
@click.option(
    "--resamples", type=click.IntRange(99), metavar="N", help="Of an interval, and permutations; by default 9999."
)
@click.option("--title", default="", help="Headline of the page.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="FILE.csv for the correlations; a directory for everything."
)
@click.option("--no-report", is_flag=True, help="Into a directory: tables only.")
@click.option("--quiet", is_flag=True, help="Into a directory: tell nothing of progress.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    source: Path, columns: tuple[str, ...], points: tuple[str, ...], variant: str, nonfinite: str, seed: int | None,
    resamples: int | None, title: str, out: Path | None, no_report: bool, quiet: bool, json_: bool, **roles: str | None,
) -> None:  # fmt: skip
    """Correlate the columns of SOURCE: a table made elsewhere, or a run directory."""
    from acutance.cli.results_ import print_summary
    from acutance.cli.screen import console, echo
    from acutance.cli.verdicts_ import print_verdicts
    from acutance.io.spreadsheet import csv_text
    from acutance.io.written import put_file, require_ours
    from acutance.run.directory import PAGE, RunDirectory, reading, refuse_replacing
    from acutance.run.outputs import LONG, workload
    from acutance.system.progress import reporter
    from acutance.workflows.correlating import too_few, write

    chosen = {name: names for name, text in merged(roles, columns).items() if (names := split(text)) is not None}
    settings: dict[str, Any] = {"variant": variant, "nonfinite": nonfinite, "seed": seed, "resamples": resamples}
    tables = (
        _of_run(source, chosen, settings, title)
        if source.is_dir()
        else _of_table(source, chosen, points, settings, title)
    )
    click.get_current_context().with_resource(reading(source))
    for note in (*tables.notes, *filter(None, [too_few(tables)])):
        echo(f"note: {note}", err=True)
    directory = out is not None and out.suffix.lower() != ".csv"
    if out is not None and directory:
        screen = console(sys.stderr)
        with reporter(screen, quiet or not screen.is_terminal) as shown:

            def say(text: str) -> None:
                if not quiet and screen.is_terminal:
                    shown.say(text)
                elif not quiet or text.startswith("note: "):
                    echo(text, err=True)

            table = write(tables, out, report=not no_report, say=say, stages=shown)
        judged = RunDirectory(out).table("verdicts")
    else:
        if out is not None:
            refuse_replacing(out, [source])
            require_ours(out)
        work = workload(tables.models, tables.results, tables.config)
        if work.seconds >= LONG:
            echo(f"statistics, {work.text} ...", err=True)
        if work.reduced:
            echo(f"note: {work.reduced}", err=True)
        table = tables.correlations()
        judged = tables.verdicts(table) if not json_ else table[:0]
        if out is not None:
            put_file(out, csv_text(table))
    if json_:
        as_json(table.to_dict(orient="records"))
        return
    print_summary(table, console(), variant=variant)
    if out is not None and directory and not no_report:
        echo(f"report: {out / PAGE}")
    print_verdicts(
        judged, console(), "in verdicts.csv" if directory else "which --out DIRECTORY writes to verdicts.csv"
    )


def split(text: str | None) -> list[str] | None:
    """Return names separated by commas, those in brackets not; None where nothing was given."""
    if text is None:
        return None
    names, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            names.append("")
        else:
            names[-1] += letter
    return [name.strip() for name in names if name.strip()]


def merged(roles: dict[str, str | None], columns: tuple[str, ...]) -> dict[str, str | None]:
    """Return what the options say, with what ``--columns ROLE=A,B`` says.

    Raises:
        UserError: for an unknown role, and for one that is given twice.
    """
    from acutance.errors import UserError, did_you_mean

    merged = dict(roles)
    for text in columns:
        role, equals, names = text.partition("=")
        role = (
            role.strip().rstrip("s") + "s"
            if role.strip() in ("target", "measure", "group", "attribute")
            else role.strip()
        )
        if role not in ROLES or not equals:
            raise UserError(f"--columns {text}: write ROLE=COLUMN,COLUMN", did_you_mean(role, ROLES))
        if merged[role] is not None:
            raise UserError(f"--columns {text}: {role} is given twice", "give each role once")
        merged[role] = names
    return merged


def _of_run(directory: Path, chosen: dict[str, list[str]], settings: dict[str, Any], title: str) -> Tables:
    from acutance.errors import UserError
    from acutance.workflows.correlating import of_run

    if strange := sorted(set(chosen) - {"targets", "groups", "within"}):
        raise UserError(
            f"--{strange[0]}: is for tables, and {directory} is a folder", "give the file, or leave this to the run"
        )
    return of_run(directory, {**chosen, **settings}, title)


def _of_table(
    path: Path, chosen: dict[str, list[str]], points: tuple[str, ...], settings: dict[str, Any], title: str
) -> Tables:
    from acutance.analysis.external import Columns
    from acutance.errors import UserError
    from acutance.workflows.correlating import of_table, parse_points

    long, model, targets = chosen.get("long"), chosen.get("model"), chosen.get("targets", [])
    if long is not None and len(long) != 2:
        raise UserError("--long: give two columns, MEASURE,VALUE, and --model, without --measures")
    for name in ("model", "colour", "size"):
        if len(chosen.get(name, [""])) != 1:
            raise UserError(f"--{name}: give one column")
    columns = Columns(
        targets=targets, measures=chosen.get("measures", []), model=model[0] if model else None,
        long=(long[0], long[1]) if long else None, groups=chosen.get("groups", []), within=chosen.get("within", []),
        attributes=chosen.get("attributes"),
        figures={name: chosen[name] for name in ("colour", "marker", "size") if name in chosen},
    )  # fmt: skip
    return of_table(
        path, columns, points=parse_points(points, targets), title=title, **{**settings, "seed": settings["seed"] or 0}
    )
