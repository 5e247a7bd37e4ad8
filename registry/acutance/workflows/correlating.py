"""All statistics, figures and the page for a table made elsewhere, or for a run under other settings; without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from acutance.analysis.external import Columns, as_run
from acutance.analysis.machinery.columns import MIN_MODELS
from acutance.errors import UserError, did_you_mean
from acutance.io.tables import read_table
from acutance.plugins import catalog
from acutance.run.directory import CURVES, PAIRS, RunDirectory, write_presentations
from acutance.run.outputs import write_report
from acutance.run.statistics import Judged, correlate, judge, measured, write_statistics
from acutance.system.environment import environment

if TYPE_CHECKING:
    from acutance.system.progress import Reporter

Variant = Literal["a", "b", "c"]
Nonfinite = Literal["refuse", "drop", "rank_max"]


@dataclass(frozen=True)
class Tables:
    """What statistics are computed from.

    Attributes:
        models: one row a model, as in ``models.csv``.
        results: one row a model and definition, as in ``results.csv``.
        config: title, source, targets, groups, within, figures, variant, nonfinite, seed: what a study says of them.
        points: test points of the targets that are errors counted on a test set.
        notes: what was left out.
        directory: of the run that they are from; None for a table made elsewhere.
    """

    models: pd.DataFrame
    results: pd.DataFrame
    config: dict[str, Any]
    points: dict[str, int]
    notes: list[str] = field(default_factory=list)
    directory: Path | None = None

    def correlations(self) -> pd.DataFrame:
        """Return the table of correlations."""
        return correlate(self.models, self.results, self.config, self.points)

    def verdicts(self, correlations: pd.DataFrame) -> Judged:
        """Return the verdict on each measure, from the table of correlations."""
        return judge(self.models, self.results, correlations, self.config)


def of_table(
    source: Path | pd.DataFrame,
    columns: Columns,
    *,
    points: Mapping[str, int] | None = None,
    title: str = "",
    variant: Variant = "a",
    nonfinite: Nonfinite = "rank_max",
    seed: int = 0,
    resamples: int | None = None,
) -> Tables:
    """Return a table made elsewhere as the tables of a run.

    Args:
        source: a file, see ``io.tables.read_table``; or the table itself.
        columns: what its columns are.
        points: test points by target, for the noise ceiling.
        title: headline of the page; the file's name by default.
        variant: of Kendall's tau.
        nonfinite: policy for infinite values.
        seed: names resamples and permutations.
        resamples: of an interval, and permutations; as many as usual by default.

    Raises:
        UserError: for a table that cannot be read, and columns that are not there or not of numbers.
    """
    if isinstance(source, Path):
        (table, notes), name = read_table(source), source.name
        origin = {"table": str(source), "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    else:
        table, notes, name, origin = source, [], "table", {"table": "in memory"}
    if strangers := [target for target in points or {} if target not in columns.targets]:
        raise UserError(f"--points: '{strangers[0]}' is no target", did_you_mean(strangers[0], list(columns.targets)))
    models, results, more = as_run(table, columns, Path(name).stem)
    for target in points or {}:
        errors = models[f"target.{target}"]
        if ((errors < 0) | (errors > 1)).any():
            raise UserError(
                f"--points: target '{target}' is not a share between 0 and 1", "divide percentages by 100 beforehand"
            )
    figures = {key: list(names) for key, names in columns.figures.items()}
    config = {
        "title": title or name, "source": origin, "targets": list(columns.targets), "groups": list(columns.groups),
        "within": list(columns.within), "variant": variant, "nonfinite": nonfinite, "seed": seed,
        "points": dict(points or {}),
        "figures": {
            "colour": next(iter(figures.get("colour", [])), None),
            "marker": figures.get("marker") or list(columns.groups),
            "size": next(iter(figures.get("size", [])), None),
        },
    }  # fmt: skip
    if resamples is not None:
        config["analysis"] = {"resamples": resamples}
    return Tables(models, results, config, dict(points or {}), notes + more)


def of_run(directory: Path, changed: Mapping[str, Any], title: str = "") -> Tables:
    """Return the tables of a run, with the study's settings where no others are given.

    Args:
        directory: of the run.
        changed: targets, groups, within, variant, nonfinite, seed; None keeps the study's.
        title: headline of the page; the study's by default.

    Raises:
        UserError: for a directory that is not one of a run.
    """
    run = RunDirectory(directory)
    models, results, config = run.table("models"), run.table("results"), run.config()
    settings = {name: value for name, value in changed.items() if value is not None}
    if "resamples" in settings:
        settings["analysis"] = {"resamples": settings.pop("resamples")}
    config |= settings
    if title:
        config["title"] = title
    ceilings = run.table("ceilings") if run.has("ceilings") else pd.DataFrame()
    test_points = dict(zip(ceilings["target"], ceilings["points"], strict=True)) if "points" in ceilings else {}
    points = {str(target): int(n) for target, n in test_points.items() if target in config["targets"]}
    return Tables(models, results, config, points, directory=directory)


def write(
    tables: Tables, directory: Path, *, report: bool = True, say: Callable[[str], None] = print,
    stages: Reporter | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Write a directory as a run leaves it, as far as the tables allow, and return the correlations.

    ``acutance report``, ``results`` and ``compare`` take it like that of a run.

    Args:
        tables: what to write.
        directory: made when it is not there; files of an earlier call are replaced.
        report: whether to draw figures and write the page.
        say: told what is under way.
        stages: told of progress.

    Raises:
        UserError: when the directory is that of a run, whose tables would be lost, or is a file.
    """
    folder = RunDirectory(directory)
    if folder.holds_run:
        raise UserError(f"--out {directory}: is the directory of a run", "give another one")
    if directory.is_file():
        raise UserError(f"--out {directory}: is a file", "give a directory, or FILE.csv for the table alone")
    folder.take(folder.holds_statistics, [Path(tables.config.get("source", {}).get("table", ""))])
    config = dict(tables.config)
    if tables.directory is not None:
        config["source"] = {"run": str(tables.directory)}
        origin = RunDirectory(tables.directory)
        for name in filter(origin.has, (CURVES, PAIRS)):
            folder.put_copy(name, origin)
    folder.put_tables({"models": tables.models, "results": tables.results})
    write_presentations(directory, measured(tables.results)["measure"])
    folder.put_study(config, environment(catalog()))
    correlations = write_statistics(folder, tables.models, tables.results, config, tables.points, say, stages)
    if report:
        say("figures and report ...")
        write_report(folder, {}, lambda sentence: say(f"note: {sentence}"))
    return correlations


def too_few(tables: Tables) -> str:
    """Return a sentence when there are too few models for any number; empty otherwise."""
    n = int(tables.models["admitted"].astype(bool).sum())
    return f"{n} models: below {MIN_MODELS} there is no correlation" if n < MIN_MODELS else ""


def parse_points(texts: Sequence[str], targets: Sequence[str]) -> dict[str, int]:
    """Return ``10000`` or ``test_error=10000,ood=2000`` as numbers of test points by target.

    Raises:
        UserError: for what is not a whole number of points.
    """
    points: dict[str, int] = {}
    for text in (part for argument in texts for part in argument.split(",")):
        name, equals, count = text.rpartition("=")
        if not count.strip().isdigit() or int(count) < 1:
            raise UserError(f"--points {text}: is not a number of test points", "write 10000, or test_error=10000")
        points |= {name.strip(): int(count)} if equals else dict.fromkeys(targets, int(count))
    return points
