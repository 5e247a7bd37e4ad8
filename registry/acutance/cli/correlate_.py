"""``acutance correlate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json

if TYPE_CHECKING:
    import pandas as pd


@click.command("correlate")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--targets", metavar="A,B", help="Columns to be predicted; those of the study for a run directory.")
@click.option("--measures", metavar="A,B", help="Columns that are to predict them; not with --long.")
@click.option("--model", help="Column with the models' names.")
@click.option("--long", "long_", metavar="MEASURE,VALUE", help="One row a model and measure: these two columns.")
@click.option("--groups", metavar="A,B", help="Columns whose values form subgroups.")
@click.option("--within", metavar="A,B", help="Models are compared only where these columns agree.")
@click.option("--variant", type=click.Choice(["a", "b", "c"]), default="a", show_default=True, help="Of Kendall's tau.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Names resamples and permutations.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table to this CSV file.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(
    source: Path,
    targets: str | None,
    measures: str | None,
    model: str | None,
    long_: str | None,
    groups: str | None,
    within: str | None,
    variant: str,
    seed: int,
    out: Path | None,
    json_: bool,
) -> None:
    """Correlate the columns of SOURCE: a table made elsewhere, or a run directory."""
    from acutance.analysis.tables import correlations
    from acutance.cli.results_ import console, print_summary
    from acutance.errors import UserError
    from acutance.outputs import write_csv

    names: dict[str, Any] = {k: split(v) for k, v in (("targets", targets), ("groups", groups), ("within", within))}
    if source.is_dir():
        if measures or model or long_:
            raise UserError("--measures, --model, --long: are for tables", "a run directory has its own")
        models, results, settings = _of_run(source, names)
    else:
        models, results = _of_table(source, names, split(measures), model, long_)
        settings = {name: found or [] for name, found in names.items()}
    table = correlations(models, results, nonfinite="rank_max", variant=variant, seed=seed, **settings)  # type: ignore[arg-type]
    if out is not None:
        write_csv(table, out)
    if json_:
        as_json(table.to_dict(orient="records"))
    else:
        print_summary(table, console(), variant=variant)


def split(text: str | None) -> list[str] | None:
    """Return names separated by commas; None where nothing was given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _of_run(directory: Path, names: dict[str, list[str] | None]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return the tables of a run, with the study's settings where none were given."""
    import yaml

    from acutance.errors import UserError
    from acutance.outputs import measured, read_csv

    models, results = read_csv(directory / "models.csv"), read_csv(directory / "results.csv")
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text())
    except FileNotFoundError:
        raise UserError(f"{directory}/config.yaml: no such file", "give the directory of a run, or a table") from None
    settings = {name: config[name] if found is None else found for name, found in names.items()}
    return models, measured(results), settings


def _of_table(
    path: Path, names: dict[str, list[str] | None], measures: list[str] | None, model: str | None, long_: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    from acutance.analysis.external import as_run, read_table, spread
    from acutance.errors import UserError

    table = read_table(path)
    if long_ is not None:
        columns = split(long_) or []
        if len(columns) != 2 or model is None or measures:
            raise UserError("--long: give two columns, MEASURE,VALUE, and --model, without --measures")
        table, measures = spread(table, model, *columns)
    return as_run(
        table, names["targets"] or [], measures or [], model, [*(names["groups"] or []), *(names["within"] or [])]
    )
