"""The tables of a run and the files it leaves: CSV, figures, the HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from acutance.errors import UserError, warn
from acutance.measure import PoolMeasure, Status, is_curve
from acutance.plugins import Item, catalog
from acutance.report.data import ReportData
from acutance.report.page.markup import save_tables
from acutance.report.shown import shown
from acutance.run.directory import CURVES, PAIRS, SWEEP, TABLES, RunDirectory, reading, write_presentations
from acutance.run.executors import cores
from acutance.run.harness import Run
from acutance.run.ledger import Ledger
from acutance.run.members import Member, PlannedCell
from acutance.run.standing import Standing
from acutance.run.statistics import are_current, measured, points_of, shown_statistics, write_statistics
from acutance.run.value_rows import short_name, spec_columns, value_row
from acutance.study.targets import AttributeTarget, Target

if TYPE_CHECKING:
    from acutance.system.progress import Reporter

EMPTY = ("model", "pool", "measure", "split", "replicate", "value", "stderr", "status", "message")


def models_table(ledger: Ledger, members: Sequence[Member], cells: Sequence[PlannedCell]) -> pd.DataFrame:
    """Return one row a model: where it is from, whether it is compared, attributes and targets."""
    study = ledger.study
    named: dict[str, Target] = {t.name: t for t in (*study.targets, *(t for t, _ in study.admit))}
    names = {name: target for name, target in named.items() if not isinstance(target, AttributeTarget)}
    rows = []
    for member in members:
        row: dict[str, Any] = {
            "model": member.label,
            "pool": member.pool.item.name,
            "architecture": member.entry.architecture,
            "train_set": member.entry.train_set,
            "admitted": member.compared,
            "reason": member.reason,
            "parameters": member.identity.parameters if member.identity else 0,
            "key": member.key or "",
        }
        row |= {f"attr.{name}": value for name, value in member.attributes.items()}
        row |= {f"target.{name}": ledger.target(member, target, cells) for name, target in names.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def results_table(
    ledger: Ledger, members: Sequence[Member], targets: Sequence[PlannedCell], cells: Sequence[PlannedCell]
) -> pd.DataFrame:
    """Return one row a cell: model, pool, attributes, measure, every field of its spec, value, status, extras."""
    plugins, rows = catalog(), []
    for member in members:
        for cell in (*targets, *(cells if member.compared else ())):
            estimate = ledger.of(member, cell)
            if estimate is None:
                continue
            rows.append(value_row(plugins, member, cell, estimate))
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=EMPTY)
    tail = ["replicate", "value", "stderr", "status", "message", *(c for c in table.columns if c.startswith("extra."))]
    return table[[c for c in table.columns if c not in tail] + tail] if len(table) else table


def curves_table(ledger: Ledger, members: Sequence[Member], cells: Sequence[PlannedCell]) -> pd.DataFrame:
    """Return one row a point of every curve, ``{"x": [...], "y": [...]}``, among the extras of measures."""
    plugins, tables = catalog(), []
    for member in members:
        for cell in cells if member.compared else ():
            estimate = ledger.of(member, cell)
            for name, value in (estimate.extras if estimate else {}).items():
                if is_curve(value):
                    measure = short_name(plugins, cell.planned.item.id)
                    row: dict[str, Any] = {"model": member.label, "measure": measure}
                    row |= spec_columns(cell)
                    row |= {"replicate": cell.planned.replicate, "curve": name}
                    tables.append(pd.DataFrame({"x": value["x"], "y": value["y"]}).assign(**row))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def pairs_table(ledger: Ledger, members: Sequence[Member], cells: Sequence[PlannedCell]) -> pd.DataFrame:
    """Return one row a model and partner, of the extra ``partners`` of measures that compare models."""
    plugins, rows = catalog(), list[dict[str, Any]]()
    comparing = [cell for cell in cells if issubclass(cell.planned.item.target, PoolMeasure)]
    for member in members:
        for cell in comparing if member.compared else ():
            estimate = ledger.of(member, cell)
            partners = estimate.extras.get("partners") if estimate else None
            if not isinstance(partners, Mapping):  # a measure of one's own may call anything by that name
                continue
            row = {"measure": short_name(plugins, cell.planned.item.id), "split": cell.split} | spec_columns(cell)
            row |= {"replicate": cell.planned.replicate, "model": member.label}
            rows += [row | {"partner": name, "value": value} for name, value in partners.items()]
    columns = ["replicate", "model", "partner", "value"]
    table = pd.DataFrame(rows)
    return table[[*table.columns.difference(columns, sort=False), *columns]] if rows else table


def write_outputs(
    ledger: Ledger, members: Sequence[Member], directory: RunDirectory, targets: Sequence[PlannedCell],
    cells: Sequence[PlannedCell], report: bool, reporter: Reporter,
) -> Run:  # fmt: skip
    """Write the tables and, when something has changed since they were last made, statistics and report."""
    models, results = models_table(ledger, members, [*targets, *cells]), results_table(ledger, members, targets, cells)
    tables = {"models": models, "results": results}
    if len(curves := curves_table(ledger, members, cells)):
        tables[CURVES] = curves
    if len(pairs := pairs_table(ledger, members, cells)):
        tables[PAIRS] = pairs
    directory.put_tables(tables, gone=(CURVES, PAIRS))
    write_presentations(directory.path, measured(results)["measure"])
    if not are_current(directory):
        points = points_of(results, ledger.study.targets)
        write_statistics(directory, models, results, ledger.study.resolved, points, reporter.say)
        directory.stamp("statistics")
    if directory.page.exists() and directory.is_current("page"):
        pass
    elif report:
        reporter.say("figures and report ...")
        write_report(directory, ledger.cost(), lambda sentence: reporter.say(f"note: {sentence}"))
    elif directory.page.exists():
        directory.mark_old()
        reporter.say(f"{directory.page}: is older than the tables now, and says so")
    bad = (Status.FAILED.value, Status.NONFINITE.value, Status.BUDGET.value)
    failed = int(results["status"].isin(bad).sum()) + sum(m.standing is Standing.BROKEN for m in members)
    models, results, correlations = map(directory.table, TABLES)  # as a reader of the files has them
    return Run(directory.path, models, results, correlations, failed, len(ledger.fresh))


def write_report(directory: RunDirectory, cost: Mapping[str, Any], say: Callable[[str], None] = warn) -> Path:
    """Draw the figures and write the HTML page of a run directory; torch is not needed.

    Args:
        directory: of the run.
        cost: seconds and passes, as the store sums them up; empty for a table made elsewhere.
        say: told in one sentence of each recipe of figures that fails.
    """
    from acutance.report.page.figures import save_figures
    from acutance.report.page.html import render_page

    with reading(directory.path):
        data = shown(report_data(directory, cost))
        directory.put_page(render_page(data, save_figures(data, directory.figures, cores(), say=say)))
    return directory.page


def write_markup(directory: RunDirectory) -> None:
    """Write the correlations of a run directory in the layout of the paper's tables."""
    save_tables(directory.table("correlations"), directory.markup)


def write_figures(directory: RunDirectory, names: Sequence[str], say: Callable[[str], None] = warn) -> list[Path]:
    """Draw the figures of some recipes from the tables of a run or of a sweep, and return the PNGs.

    Args:
        directory: of a run, or of a sweep for the recipes of sweeps.
        names: of recipes.
        say: told why a recipe has no figures where another has.

    Raises:
        UserError: for an unknown recipe, and when none of them has anything to draw.
    """
    items = [catalog().find("figures", name) for name in dict.fromkeys(names)]
    if directory.has(SWEEP):
        return _figures_of_sweep(directory, items, say)
    with reading(directory.path):
        return _figures_of_run(directory, items, say)


def _figures_of_run(directory: RunDirectory, items: Sequence[Item], say: Callable[[str], None]) -> list[Path]:
    from acutance.report.page.figures import save_recipe

    data = shown(report_data(directory, {}))
    return _each(items, lambda item: save_recipe(item, data, directory.figures, cores(), say), say)


def _figures_of_sweep(directory: RunDirectory, items: Sequence[Item], say: Callable[[str], None]) -> list[Path]:
    from acutance.report.page.figures import save_sweep

    table = directory.table(SWEEP)
    name = str(table.columns[0])
    folders = _folders_of_sweep(directory.path, name)
    with reading(*(run.path for run in folders.values())):
        runs = {value: report_data(run, {}) for value, run in folders.items()}
        return _each(items, lambda item: save_sweep(item, table, runs, name, directory.figures), say)


def _each(items: Sequence[Item], draw: Callable[[Item], list[Path]], say: Callable[[str], None]) -> list[Path]:
    """Draw one recipe after the other, also those behind one that cannot be drawn."""
    paths, errors = list[Path](), list[UserError]()
    for item in items:
        try:
            paths += draw(item)
        except UserError as error:
            errors.append(error)
    if errors and not paths:
        raise errors[0]
    for left_out in errors:
        say(left_out.message)
    return paths


def _folders_of_sweep(directory: Path, name: str) -> dict[str, RunDirectory]:
    """Return the folders of the runs of a sweep by the value of the setting, numbers in their order."""
    folders = {path.name.partition("=")[2]: RunDirectory(path) for path in directory.glob(f"{name}=*")}
    finished = {value: run for value, run in folders.items() if run.has("correlations")}

    def place(value: str) -> tuple[float, str]:
        with suppress(ValueError):
            return float(value), ""
        return float("inf"), value

    return {value: finished[value] for value in sorted(finished, key=place)}


def report_data(directory: RunDirectory, cost: Mapping[str, Any]) -> ReportData:
    """Return what figures and page are made from: the tables of a run directory, its config and environment."""
    models, results, correlations = map(directory.table, TABLES)
    config = directory.config()
    statistics, faults = shown_statistics(directory)
    return ReportData(
        title=config["title"] or directory.path.name,
        config=config,
        environment=directory.environment(),
        models=models,
        results=results,
        correlations=correlations,
        problems=problems_table(results),
        cost={**cost, "models": len(models), "cells": len(results)},
        targets=list(config["targets"]),
        groups=list(config["groups"]),
        figures=config["figures"],
        curves=directory.table(CURVES) if directory.has(CURVES) else None,
        pairs=directory.table(PAIRS) if directory.has(PAIRS) else None,
        findings=dict(directory.tables([statistic.name for statistic in statistics])),
        statistics=statistics,
        faults=faults,
    )


def problems_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return one row for every cell without a trustworthy number: which, and why."""
    columns = ["pool", "model", "measure", "spec", "state", "message"]
    if not len(results):
        return pd.DataFrame(columns=columns)
    bad = results[results["status"] != Status.OK.value]
    fields = [c for c in results.columns if c.startswith("spec.")]
    spec = [
        ", ".join(f"{f.removeprefix('spec.')}={row[f]}" for f in fields if pd.notna(row[f]))
        for _, row in bad.iterrows()
    ]
    # Of the columns that are shown alone: results of many measures have hundreds.
    table = bad[["pool", "model", "measure"]].assign(spec=spec, state=bad["status"], message=bad["message"].fillna(""))
    return table[columns].reset_index(drop=True)
