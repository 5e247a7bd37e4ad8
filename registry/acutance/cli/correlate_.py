"""``acutance correlate``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.cli.plugin_option import plugin_option

if TYPE_CHECKING:
    import pandas as pd

    from acutance.run.statistics import Judged
    from acutance.workflows.correlating import Tables

ROLES = ("targets", "measures", "model", "long", "groups", "within", "attributes", "colour", "marker", "size")


@click.command("correlate")
@click.argument("source", type=click.Path(path_type=Path))
@plugin_option
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
def command(**options: Any) -> None:
    """Correlate the columns of SOURCE: a table made elsewhere, or a run directory."""
    from acutance.cli.screen import echo
    from acutance.run.directory import reading
    from acutance.workflows.correlating import too_few

    asked = Asked.of(options)
    tables = asked.tables()
    click.get_current_context().with_resource(reading(asked.source))
    for note in (*tables.notes, *filter(None, [too_few(tables)])):
        echo(f"note: {note}", err=True)
    table, judged = _into_folder(asked, tables) if asked.folder else _on_screen(asked, tables)
    if asked.json_:
        as_json(table.to_dict(orient="records"))
    else:
        _print(asked, table, judged)


@dataclass(frozen=True)
class Asked:
    """What is asked for, by option.

    Attributes:
        source: a table, or the directory of a run.
        columns: names by role, of the roles that are given.
        points: test points, as written.
        settings: of the statistics: variant, nonfinite, seed, resamples.
        title: headline of the page.
        out: where to write; None for the screen alone.
        report: whether a directory gets figures and a page.
        quiet: whether nothing is told of progress.
        json_: whether the table is printed as JSON.
    """

    source: Path
    columns: dict[str, list[str]]
    points: tuple[str, ...]
    settings: dict[str, Any]
    title: str
    out: Path | None
    report: bool
    quiet: bool
    json_: bool

    @classmethod
    def of(cls, options: dict[str, Any]) -> Asked:
        """Return what the options of the command say."""
        rest = dict(options)
        roles = merged({name: rest.pop(name) for name in ROLES}, rest.pop("columns"))
        columns = {name: names for name, text in roles.items() if (names := split(text)) is not None}
        settings = {name: rest.pop(name) for name in ("variant", "nonfinite", "seed", "resamples")}
        return cls(columns=columns, settings=settings, report=not rest.pop("no_report"), **rest)

    @property
    def folder(self) -> Path | None:
        """Where everything is written, if it is to be."""
        return self.out if self.out is not None and self.out.suffix.lower() != ".csv" else None

    def tables(self) -> Tables:
        """Return what the statistics are computed from."""
        return self._of_run() if self.source.is_dir() else self._of_table()

    def _of_run(self) -> Tables:
        from acutance.errors import UserError
        from acutance.workflows.correlating import of_run

        if strange := sorted(set(self.columns) - {"targets", "groups", "within"}):
            raise UserError(
                f"--{strange[0]}: is for tables, and {self.source} is a folder",
                "give the file, or leave this to the run",
            )
        return of_run(self.source, {**self.columns, **self.settings}, self.title)

    def _of_table(self) -> Tables:
        from acutance.analysis.external import Columns
        from acutance.errors import UserError
        from acutance.workflows.correlating import of_table, parse_points

        chosen = self.columns
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
        settings = {**self.settings, "seed": self.settings["seed"] or 0}
        return of_table(self.source, columns, points=parse_points(self.points, targets), title=self.title, **settings)


def _into_folder(asked: Asked, tables: Tables) -> tuple[pd.DataFrame, Judged]:
    """Write all that a run leaves, and return correlations and verdicts."""
    from acutance.cli.screen import console, echo
    from acutance.run.directory import RunDirectory
    from acutance.run.statistics import judged
    from acutance.system.progress import reporter
    from acutance.workflows.correlating import write

    assert asked.folder is not None
    screen = console(sys.stderr)
    with reporter(screen, asked.quiet or not screen.is_terminal) as shown:

        def say(text: str) -> None:
            if not asked.quiet and screen.is_terminal:
                shown.say(text)
            elif not asked.quiet or text.startswith("note: "):
                echo(text, err=True)

        table = write(tables, asked.folder, report=asked.report, say=say, stages=shown)
    return table, judged(RunDirectory(asked.folder))


def _on_screen(asked: Asked, tables: Tables) -> tuple[pd.DataFrame, Judged]:
    """Return correlations and verdicts, those unless JSON is asked for; the former may also go to a file."""
    from acutance.cli.screen import echo
    from acutance.io.spreadsheet import csv_text
    from acutance.io.written import put_file, require_ours
    from acutance.run.directory import refuse_replacing
    from acutance.run.statistics import LONG, Judged, workload

    if asked.out is not None:
        refuse_replacing(asked.out, [asked.source])
        require_ours(asked.out)
    work = workload(tables.models, tables.results, tables.config)
    if work.seconds >= LONG:
        echo(f"statistics, {work.text} ...", err=True)
    if work.reduced:
        echo(f"note: {work.reduced}", err=True)
    table = tables.correlations()
    judged = tables.verdicts(table) if not asked.json_ else Judged(None)
    if asked.out is not None:
        put_file(asked.out, csv_text(table))
    return table, judged


def _print(asked: Asked, table: pd.DataFrame, judged: Judged) -> None:
    from acutance.cli.results_ import print_summary
    from acutance.cli.screen import console, echo
    from acutance.cli.verdicts_ import print_verdicts
    from acutance.run.directory import PAGE

    print_summary(table, console(), variant=asked.settings["variant"])
    if asked.folder is not None and asked.report:
        echo(f"report: {asked.folder / PAGE}")
    print_verdicts(
        judged, console(), "in verdicts.csv" if asked.folder else "which --out DIRECTORY writes to verdicts.csv"
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
