"""The statistics of a run: the correlations, then the table of every statistic that is installed, one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from acutance.analysis.machinery.columns import joined
from acutance.analysis.statistics import Statistic, StudyTables
from acutance.analysis.statistics.base import Place
from acutance.analysis.statistics.verdicts import Verdicts
from acutance.analysis.tables import correlations
from acutance.analysis.workload import RESAMPLES, Workload, resamples_of
from acutance.analysis.workload import workload as workload_of
from acutance.errors import UserError, caught, in_words
from acutance.plugins import OWN, Item, catalog
from acutance.report.page.markup import save_tables
from acutance.run.directory import Recorded, RunDirectory
from acutance.study.targets import SplitTarget, Target

if TYPE_CHECKING:
    from acutance.system.progress import Reporter

LONG = 10.0  # seconds from which on it is said how long statistics will take


def measured(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of measures, without those that targets are measured in."""
    return results[~results["measure"].isin(["error", "loss"])] if len(results) else results


def write_statistics(
    directory: RunDirectory, models: pd.DataFrame, results: pd.DataFrame, config: Mapping[str, Any],
    points: Mapping[str, int],
    say: Callable[[str], None], stages: Reporter | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Write the correlations of a run, in the paper's layout too, and all other statistics; return the former.

    Args:
        directory: of the run.
        models: as ``models_table`` returns them.
        results: as ``results_table`` returns them.
        config: the resolved study.
        points: test points of the targets that are errors counted on a test set.
        say: told what is under way.
        stages: told of progress.
    """
    work = workload(models, results, config)
    say(f"statistics, {work.text} ..." if work.seconds >= LONG else "statistics ...")
    if work.reduced:
        say(f"note: {work.reduced}")
    if stages is not None:
        stages.stage("correlations", work.pairs, work.pairs)
    advance = (lambda count: None) if stages is None else (lambda count: stages.advance(count, count))
    table = correlate(models, results, config, points, advance, work)
    directory.put_tables({"correlations": table})
    save_tables(table, directory.markup)
    study = study_tables(models, results, table, config, points, advance)
    tables, recorded = computed(catalog().items("statistics"), study, stages)
    for about in recorded.values():
        if about.fault:
            say(f"note: {about.fault}")
    directory.put_statistics(tables, recorded)
    return table


def workload(models: pd.DataFrame, results: pd.DataFrame, config: Mapping[str, Any]) -> Workload:
    """Return how long the statistics of a run take, and from how many resamples."""
    asked = resamples_of(config)
    others = sum(statistic.rounds for statistic in _opened(catalog().items("statistics"))[0].values())
    return workload_of(models, measured(results), len(config["targets"]), config["groups"], asked, others)


def correlate(
    models: pd.DataFrame, results: pd.DataFrame, config: Mapping[str, Any], points: Mapping[str, int] | None = None,
    done: Callable[[int], None] = lambda count: None, work: Workload | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return the correlations table of a run, from as many resamples as is affordable, which ``note`` says if fewer."""
    work = work or workload(models, results, config)
    table = correlations(
        models,
        measured(results),
        targets=config["targets"],
        groups=config["groups"],
        within=config["within"],
        variant=config.get("variant", "a"),
        nonfinite=config.get("nonfinite", "rank_max"),
        points=points,
        resamples=work.resamples,
        permutations=work.resamples,
        seed=config["seed"],
        done=done,
    )
    if work.reduced:
        table["note"] = [joined(note, work.reduced) for note in table["note"]]
    return table


def study_tables(
    models: pd.DataFrame, results: pd.DataFrame, correlations: pd.DataFrame, config: Mapping[str, Any],
    points: Mapping[str, int] | None = None, done: Callable[[int], None] = lambda count: None,
) -> StudyTables:  # fmt: skip
    """Return what the statistics of a run are computed from; they take no more resamples than the correlations."""
    return StudyTables(
        models, measured(results), correlations, config["targets"], config["groups"], config["within"], points or {},
        controls_of(models, config), min(RESAMPLES, resamples_of(config) or RESAMPLES), config["seed"], done,
    )  # fmt: skip


def judge(models: pd.DataFrame, results: pd.DataFrame, correlations: pd.DataFrame, config: Mapping[str, Any]) -> Judged:
    """Return the verdict on each measure of a run."""
    items = [item for item in catalog().items("statistics") if item.name == Verdicts.name]
    return Judged.of(*computed(items, study_tables(models, results, correlations, config)))


def judged(directory: RunDirectory) -> Judged:
    """Return the verdicts that a directory has."""
    return Judged.of(dict(directory.tables([Verdicts.name])), directory.recorded())


@dataclass(frozen=True)
class Judged:
    """The verdicts on the measures of a run, one line each; or, where they failed, a sentence that says why."""

    table: pd.DataFrame | None
    fault: str = ""

    @classmethod
    def of(cls, tables: Mapping[str, pd.DataFrame], recorded: Mapping[str, Recorded]) -> Judged:
        """Return the verdicts among statistics, by name."""
        if Verdicts.name in tables:
            return cls(tables[Verdicts.name])
        about = recorded.get(Verdicts.name)
        return cls(None, about.fault if about else f"There is no table of {Verdicts.name}.")


def computed(
    items: Sequence[Item], study: StudyTables, stages: Reporter | None = None
) -> tuple[dict[str, pd.DataFrame], dict[str, Recorded]]:
    """Return the tables of statistics by name, and what is to be recorded of them; one that fails stops no other.

    Args:
        items: registered statistics.
        study: what they are computed from.
        stages: told of progress.
    """
    statistics, recorded = _opened(items)
    tables: dict[str, pd.DataFrame] = {}
    for item in items:
        if (statistic := statistics.get(item.name)) is None:
            continue
        about = Recorded(item.dist, item.version, statistic.heading(), statistic.about())
        with caught() as errors:
            tables[item.name] = _table(statistic, study if item.dist == OWN else _copy(study), stages)
        for error in errors:
            about = _failed(item, error)
        if about.fault or item.dist != OWN:
            recorded[item.name] = about
    return tables, recorded


def _opened(items: Sequence[Item]) -> tuple[dict[str, Statistic], dict[str, Recorded]]:
    """Return the statistics by name, and what is recorded of those that cannot be made."""
    found: dict[str, Statistic] = {}
    faults: dict[str, Recorded] = {}
    for item in items:
        with caught() as errors:
            found[item.name] = _made(item.target)
        for error in errors:
            if isinstance(error, UserError):
                faults[item.name] = Recorded(item.dist, item.version, fault=f"{error.message}; it has no table.")
            else:
                faults[item.name] = _failed(item, error)
    return found, faults


def _made(target: Any) -> Statistic:
    """Return a statistic, once what is asked of it beside its table is known to be what it should."""
    statistic = target()
    if not isinstance(statistic, Statistic):
        raise TypeError(f"{target.__name__} is no acutance.analysis.statistics.Statistic")
    told = {"heading": statistic.heading(), "about": statistic.about()}
    for name, value in told.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}() must return a text, not {type(value).__name__}")
    if statistic.after not in get_args(Place) or not isinstance(statistic.rounds, int):
        raise ValueError(f"'after' must be one of {', '.join(get_args(Place))}, and 'rounds' a number")
    return statistic


def _failed(item: Item, error: BaseException) -> Recorded:
    fault = f"statistic '{item.name}' of {item.dist} {item.version} failed: {in_words(error)}; it has no table."
    return Recorded(item.dist, item.version, fault=fault)


def _copy(study: StudyTables) -> StudyTables:
    """Return tables that others do not see changes of."""
    return replace(
        study, models=study.models.copy(), results=study.results.copy(), correlations=study.correlations.copy()
    )


def _table(statistic: Statistic, study: StudyTables, stages: Reporter | None) -> pd.DataFrame:
    """Return the table of one statistic, as a CSV file can have it."""
    if stages is not None and (steps := statistic.steps(study)):
        stages.stage(statistic.name, steps, steps)
    table = statistic.compute(study)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"compute must return a DataFrame, not {type(table).__name__}")
    if table.columns.nlevels > 1 or not table.columns.is_unique:
        raise ValueError("two columns of its table have one name")
    _require_cells(table)
    return table if table.shape[1] else pd.DataFrame(columns=["within"])


def _require_cells(table: pd.DataFrame) -> None:
    """Refuse a table whose cells no file of texts can hold.

    Raises:
        TypeError: for a list, a mapping or the like in a cell.
    """
    for name in table.columns:
        try:
            found = pd.unique(table[name])
        except TypeError:
            cell = next(cell for cell in table[name] if not isinstance(cell, Hashable) or isinstance(cell, tuple))
            raise TypeError(
                f"column '{name}' of its table holds a {type(cell).__name__}; a cell is a number or a text"
            ) from None
        for cell in found if found.dtype == object else ():
            str(cell)  # as it is written


# -- what a directory has -------------------------------------------------------------------------------------


class TableOnly(Statistic):
    """The table of a statistic that is not installed here, as it is."""

    def __init__(self, name: str, about: Recorded) -> None:
        self.name, self.title, self.explanation = name, about.title, about.explanation  # type: ignore[misc]


def table_names(directory: RunDirectory) -> list[str]:
    """Return the names of the statistics that a directory may have a table of: installed ones, and recorded ones."""
    return list(dict.fromkeys([*(item.name for item in catalog().items("statistics")), *directory.recorded()]))


def shown_statistics(directory: RunDirectory) -> tuple[list[Statistic], dict[str, str]]:
    """Return the statistics that a directory has a table of, installed or not; and why others failed, by name."""
    recorded, items = directory.recorded(), catalog().items("statistics")
    # A table of another distribution's statistic is not what the class of that name understands.
    mine = [item for item in items if item.dist == recorded.get(item.name, item).dist]
    opened = _opened([item for item in mine if directory.has(item.name)])[0]
    tables = {name: TableOnly(name, about) for name, about in recorded.items() if directory.has(name)}
    found = {name: opened.get(name) or tables.get(name) for name in table_names(directory)}
    faults = {name: about.fault for name, about in recorded.items() if about.fault}
    return [s for s in found.values() if s is not None], faults


def are_current(directory: RunDirectory) -> bool:
    """Return whether every installed statistic, as it is now, has its table of the results as they are."""
    recorded = directory.recorded()

    def has(item: Item) -> bool:
        about = recorded.get(item.name)
        same = about is not None and (about.dist, about.version, about.fault) == (item.dist, item.version, "")
        return directory.has(item.name) and (same or (about is None and item.dist == OWN))

    tables = directory.has("correlations") and all(map(has, catalog().items("statistics")))
    return tables and directory.is_current("statistics")


def controls_of(models: pd.DataFrame, config: Mapping[str, Any]) -> list[str]:
    """Return what partial correlations hold fixed beside the groups: colour and size as numbers, training's end."""
    found = []
    for name in (config["figures"].get("colour"), config["figures"].get("size")):
        column = f"attr.{name}"
        if name and column in models and pd.api.types.is_numeric_dtype(models[column]):
            found.append(name)
    return [*found, *(name for name in ("train_loss", "train_error") if f"target.{name}" in models)]


def points_of(results: pd.DataFrame, targets: Sequence[Target]) -> dict[str, int]:
    """Return how many examples the targets that are errors on one split were counted on, as far as that is known.

    Several versions of one example, corrupted in several ways, are one.
    """
    if "extra.points" not in results:
        return {}
    known = results[(results["measure"] == "error") & results["extra.points"].notna()]
    versions = known["extra.versions"].fillna(1) if "extra.versions" in known else 1
    by_split = known.assign(examples=known["extra.points"] / versions).groupby("split")["examples"].first()
    alone = {t.name: t.terms[0] for t in targets if isinstance(t, SplitTarget) and len(t.terms) == 1}
    splits = {name: split for name, (_, measure, split) in alone.items() if measure == "error"}
    return {name: int(by_split[split]) for name, split in splits.items() if split in by_split}
