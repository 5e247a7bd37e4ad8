"""A ranking as it is handed out: tables, sentences, JSON, and a folder with a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from acutance.analysis.choosing import Recommended, leave_one_out, picks, random_regret, recommended, regret
from acutance.analysis.kendall import KendallResult, kendall_tau
from acutance.analysis.matrix import Matrix, matrix
from acutance.analysis.ranking import (
    GROUPS,
    conclusive,
    jackknife_errors,
    listed,
    mean_ranks,
    overall,
    ranks,
    sentence,
    without_rounding,
)
from acutance.errors import UserError
from acutance.io.written import put

if TYPE_CHECKING:
    from acutance.run.directory import RunDirectory
    from acutance.system.progress import Reporter
    from acutance.workflows.ranking_measures import Ranker
    from acutance.workflows.ranking_values import Array, Values

POINTS = "points"
RESAMPLES = 1999  # of models, for intervals of tau


@dataclass(frozen=True)
class Ranked:
    """Models ranked by measures without labels.

    Attributes:
        table: ``measure``, ``model``, ``value``, ``stderr``, ``rank``, ``rank_low``, ``rank_high``, ``note``: a row a
            measure and model. Ranks of one measure hold at once with 95% confidence; 1 is the best.
        agreement: ``a``, ``b``, ``tau``, ``low``, ``high``, ``n``: Kendall's tau-b between the rankings of two
            measures.
        costs: ``measure``, ``set``, ``chosen``, ``error``, ``best``, ``regret``, ``stderr``, ``random``, ``tau``,
            ``low``, ``high``, ``off``: what a choice by each measure would have cost on labelled points, and, for
            estimates of the error, by how much they are wrong in the mean over models.
        choices: ``set``, ``measure``, ``regret``, ``random``: what the measure that cost least on the other sets costs
            on the one left out.
        errors: ``set``, ``model``, ``error``, ``stderr``.
        verdict: what follows, in one sentence.
        sentences: one for each measure.
        recommended: the measure that cost least on labelled points; None without any.
        labels: what texts call each measure.
        clusters: measure -> number of its cluster; those of one say nearly the same of these models.
        order: measures so that similar ones are neighbours.
        points: number of points, by set.
        notes: what there is to know.
        directory: where it was written; None where it was not.
    """

    table: pd.DataFrame
    agreement: pd.DataFrame
    costs: pd.DataFrame
    choices: pd.DataFrame
    errors: pd.DataFrame
    verdict: str
    sentences: list[str]
    recommended: Recommended | None
    labels: dict[str, str]
    clusters: dict[str, int]
    order: list[str]
    points: dict[str, int]
    notes: list[str] = field(default_factory=list)
    directory: Path | None = None

    def __str__(self) -> str:
        return "\n".join([self.verdict, *self.sentences])

    def __repr__(self) -> str:
        models = self.table["model"].nunique()
        return f"Ranked({models} models by {len(self.labels)} measures on {self.points[POINTS]} points: {self.verdict})"

    def _repr_html_(self) -> str:
        shown = self.table.drop(columns="note").assign(value=without_rounding(self.table)).round(6)
        lines = "".join(f"<li>{escape(text)}</li>" for text in self.sentences)
        return (
            f"<div><p><strong>{escape(self.verdict)}</strong></p><ul>{lines}</ul>"
            f"{shown.to_html(index=False, escape=True)}</div>"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; what is no number is None."""
        tables = {name: getattr(self, name) for name in ("table", "agreement", "costs", "choices", "errors")}
        plain = {
            name: [{k: _plain(v) for k, v in row.items()} for row in table.to_dict("records")]
            for name, table in tables.items()
        }
        least = self.recommended
        return {
            "verdict": self.verdict, "sentences": self.sentences, "points": self.points, "labels": self.labels,
            "clusters": self.clusters, **plain, "notes": self.notes,
            "recommended": None if least is None else {
                "measure": least.measure, "regret": _plain(least.regret), "random": _plain(least.random),
                "p": _plain(least.p), "why": least.why,
            },
        }  # fmt: skip

    def write(self, folder: RunDirectory) -> None:
        """Write the tables and the page into a folder that was taken."""
        from acutance.report.page.ranking import RankingData, ranking_page

        shown = RankingData(
            self.verdict, self.sentences, self.table, self.agreement, self.costs, self.choices, self.order,
            self.clusters, self.labels, self.points, self.notes,
        )  # fmt: skip
        folder.put_tables(
            {"ranking": self.table, "agreement": self.agreement, "costs": self.costs, "choices": self.choices}
        )
        put(folder.path, {"rank.html": ranking_page(shown)})


def ranked(
    models: Sequence[str],
    rankers: Sequence[Ranker],
    values: Sequence[Mapping[str, Values]],
    errors: Mapping[str, tuple[Array, Array]],
    points: Mapping[str, int],
    *,
    validation: str,
    seed: int,
    notes: Sequence[str],
    directory: Path | None,
    reporter: Reporter,
) -> Ranked:
    """Return the ranking that follows from values and errors.

    Args:
        models: their names, M.
        rankers: the measures.
        values: of each measure, by set.
        errors: by labelled set: (M,), and (G, M) without one group each.
        points: number of points, by set.
        validation: name of the labelled points that measures may have seen; empty where there are none.
        seed: names resamples.
        notes: what there is to know already.
        directory: where it will be written.
        reporter: told of progress.
    """
    times = Counter(r.item.name for r in rankers)
    names = [r.item.name if times[r.item.name] == 1 else r.label for r in rankers]
    labels = dict(zip(names, (r.label for r in rankers), strict=True))
    table = pd.concat([_rows(name, models, r, v[POINTS]) for name, r, v in zip(names, rankers, values, strict=True)])
    table = table.reset_index(drop=True)
    bad = {name: _badness(r, v) for name, r, v in zip(names, rankers, values, strict=True)}
    agreement, clusters = _agreement({name: of[POINTS] for name, of in bad.items()}, seed, reporter)
    known = {name: np.isfinite(e).all() for name, (e, _) in errors.items()}
    more = [
        f"{name}: a model's outputs are not finite, and no error is known" for name, fine in known.items() if not fine
    ]
    usable = {name: pair for name, pair in errors.items() if known[name]}
    costs = _costs(bad, usable, models, seed, {n for n, r in zip(names, rankers, strict=True) if r.estimates})
    # Measures may have seen the labels of the validation points: other labelled points judge, where there are some.
    judging = [name for name in usable if name != validation] or list(usable)
    complete = {
        name: np.stack([of[s] for s in judging])
        for name, of in bad.items()
        if judging and all(s in of and np.isfinite(of[s]).all() for s in judging)
    }
    stacked = np.stack([usable[s][0] for s in judging]) if judging else np.empty((0, len(models)))
    least = recommended(complete, stacked, seed) if judging else None
    choices = leave_one_out(complete, stacked, judging)
    parts = {name: rows for name, rows in table.groupby("measure", sort=False)}
    return Ranked(
        table, agreement, costs,
        pd.DataFrame(
            [{"set": c.set, "measure": ", ".join(c.measure), "regret": c.regret, "random": c.random} for c in choices],
            columns=["set", "measure", "regret", "random"],
        ),
        _errors(errors, models),
        _verdict(table, parts, labels, least, judging),
        [_sentence(labels[name], rows) for name, rows in parts.items()],
        least, labels, clusters.clusters, clusters.order, dict(points),
        [*notes, *more, *_without(parts, labels)], directory,
    )  # fmt: skip


def _rows(name: str, models: Sequence[str], ranker: Ranker, values: Values) -> pd.DataFrame:
    """Return the rows of one measure, the best value first."""
    found = ranks(values.value, values.without, ranker.larger_is_better)
    rows = pd.DataFrame({
        "measure": name, "model": list(models), "value": values.value, "stderr": found.stderr,
        "rank": mean_ranks(values.value, ranker.larger_is_better), "rank_low": found.low, "rank_high": found.high,
        "note": list(values.why),
    })  # fmt: skip
    return rows.sort_values("rank", kind="stable")


def _badness(ranker: Ranker, values: Mapping[str, Values]) -> dict[str, Array]:
    """Return the values of a measure by set, turned so that smaller is better; sets without any are left out."""
    sign = -1.0 if ranker.larger_is_better else 1.0
    return {name: sign * v.value for name, v in values.items() if np.isfinite(v.value).any() or name == POINTS}


def _tau(a: Array, b: Array, seed: int) -> KendallResult | None:
    try:
        return kendall_tau(a, b, "b", nonfinite="drop", resamples=RESAMPLES, permutations=0, seed=seed)
    except UserError:  # fewer than two models have both
        return None


def _agreement(bad: Mapping[str, Array], seed: int, reporter: Reporter) -> tuple[pd.DataFrame, Matrix]:
    """Return tau between the rankings of every two measures, and their clusters."""
    pairs, rows = list(combinations(bad, 2)), []
    reporter.stage("agreement", len(pairs), len(pairs))
    for a, b in pairs:
        found = _tau(bad[a], bad[b], seed)
        rows.append({"a": a, "b": b, **_interval(found), "n": found.n if found else 0})
        reporter.advance(1, 1)
    columns = ["a", "b", "tau", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns), matrix(pd.DataFrame(dict(bad)).replace([np.inf, -np.inf], np.nan))


def _interval(found: KendallResult | None) -> dict[str, float]:
    return {name: getattr(found, name) if found else math.nan for name in ("tau", "low", "high")}


def _costs(
    bad: Mapping[str, Mapping[str, Array]], errors: Mapping[str, tuple[Array, Array]], models: Sequence[str], seed: int,
    estimates: Collection[str],
) -> pd.DataFrame:  # fmt: skip
    """Return what a choice by each measure would have cost on each labelled set, and how far off an estimate is."""
    rows = []
    for s, (error, without) in errors.items():
        for name, of in bad.items():
            if s not in of:
                continue
            cost, deviation = regret(of[s], error, without)
            weights = picks(of[s])
            rows.append({
                "measure": name, "set": s, "chosen": listed([m for m, w in zip(models, weights, strict=True) if w > 0]),
                "error": float(error @ weights), "best": float(error.min()), "regret": cost, "stderr": deviation,
                "random": random_regret(error), **_interval(_tau(of[s], error, seed)),
                "off": float(np.nanmean(np.abs(of[s] - error))) if name in estimates else math.nan,
            })  # fmt: skip
    columns = ["measure", "set", "chosen", "error", "best", "regret", "stderr", "random", "tau", "low", "high", "off"]
    return pd.DataFrame(rows, columns=columns)


def _errors(errors: Mapping[str, tuple[Array, Array]], models: Sequence[str]) -> pd.DataFrame:
    rows = [
        {"set": s, "model": model, "error": float(e), "stderr": float(d)}
        for s, (error, without) in errors.items()
        for model, e, d in zip(models, error, jackknife_errors(without[None]), strict=True)
    ]
    return pd.DataFrame(rows, columns=["set", "model", "error", "stderr"])


def _verdict(
    table: pd.DataFrame, parts: Mapping[str, pd.DataFrame], labels: Mapping[str, str], least: Recommended | None,
    judging: Sequence[str],
) -> str:  # fmt: skip
    """Return the answer in one sentence."""
    if least is None:
        return f"{overall(table)} No labelled points say which measure to trust."
    if not least.measure:
        return f"Inconclusive: {least.why}."
    cost = f"mean regret {least.regret:.3g} on {listed(list(judging))}, {least.random:.3g} at random"
    label = labels[least.measure]
    if least.why:
        return f"Inconclusive: {label} cost least ({cost}), but {least.why}."
    rows = parts[least.measure]
    begin = "By" if conclusive(rows) else "Inconclusive: by"
    return f"{begin} {label}, which cost least ({cost}), {sentence(rows)}."


def _sentence(label: str, rows: pd.DataFrame) -> str:
    """Return in one sentence which models are possibly the best by a measure."""
    return f"{label}: {'' if conclusive(rows) or rows['value'].isna().all() else 'inconclusive, '}{sentence(rows)}."


def _without(parts: Mapping[str, pd.DataFrame], labels: Mapping[str, str]) -> list[str]:
    """Return why models have no value, each reason of a measure once; and where there is no uncertainty."""
    told = []
    for name, rows in parts.items():
        for why, alike in rows[rows["note"] != ""].groupby("note", sort=False):
            who = "all models" if len(alike) == len(rows) else listed([str(m) for m in alike["model"]])
            told.append(f"{labels[name]}, {who}: {why}")
        unsure = rows[np.isfinite(rows["value"]) & rows["stderr"].isna()]
        if len(unsure):
            told.append(
                f"{labels[name]}: no value without one or other of the {GROUPS} groups of points, and so no uncertainty"
            )
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
