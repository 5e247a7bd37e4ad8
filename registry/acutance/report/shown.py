"""What of a very large table figures and page show; the tables beside them, and every number, are of all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from acutance.analysis.labels import definition_label
from acutance.report.data import ReportData

DEFINITIONS = 60  # without their radii; the paper's grid has 48
MODELS = 2000


def shown(data: ReportData, definitions: int = DEFINITIONS, models: int = MODELS) -> ReportData:
    r"""Return what is drawn of a run: at most so many definitions and models; all of it where it has no more.

    Definitions are those with the largest \|tau\| to a target that counts, models are taken evenly from the table.
    No number is computed from fewer: correlations, counts and verdicts stay those of all, which ``everything`` holds;
    ``left_out`` says in one sentence what is not drawn.
    """
    names_shown, sentences, reduced = set(data.definitions), list[str](), data
    if len(names_shown) > definitions:
        names_shown = _strongest(data, definitions)
        sentences.append(
            f"{definitions} of {len(data.definitions)} definitions are shown, those with the largest |τ| to a target"
        )
        reduced = _of_definitions(data, names_shown)
    names = _evenly(data, models)
    if names is not None:
        sentences.append(
            f"{models} of {int(data.models['admitted'].astype(bool).sum())} models are drawn, taken evenly"
        )
        reduced = replace(
            reduced,
            models=reduced.models[reduced.models["model"].isin(names)],
            results=reduced.results[reduced.results["model"].isin(names)],
            curves=None if reduced.curves is None else reduced.curves[reduced.curves["model"].isin(names)],
            pairs=None if reduced.pairs is None else reduced.pairs[reduced.pairs["model"].isin(names)],
        )
    if not sentences:
        return data
    left_out = "; ".join(sentences) + "; every number is of all of them, and so are the tables (CSV)."
    return replace(reduced, names=data.name, everything=data, left_out=left_out)


def _strongest(data: ReportData, count: int) -> set[str]:
    t = data.named[(data.named["group"] == "all") & data.named["target"].isin(data.outcomes or data.targets)]
    largest = t["tau"].abs().groupby(t["definition"], sort=False).max().fillna(-1.0)
    return set(largest.sort_values(ascending=False, kind="stable").index[:count])


def _of_definitions(data: ReportData, chosen: set[str]) -> ReportData:
    """Return a run with the rows of some definitions alone; what targets are measured in stays."""
    named = data.named[data.named["definition"].isin(chosen)]
    labels = chosen | {definition_label(row, data.name) for row in named.to_dict("records")}
    measured = data.measured
    dropped = measured.index[~measured["definition"].isin(chosen)]
    return replace(
        data,
        correlations=data.correlations.loc[named.index],
        results=data.results.drop(index=dropped),
        findings={key: _rows(table, labels) for key, table in data.findings.items()},
    )


def _rows(table: pd.DataFrame, labels: set[str]) -> pd.DataFrame:
    for column in {"definition", "other"} & set(table.columns):
        table = table[table[column].isin(labels)]
    return table


def _evenly(data: ReportData, count: int) -> set[str] | None:
    """Return the models that are drawn; None where all are. Those that are not compared are listed, not drawn."""
    admitted = data.models["admitted"].astype(bool).to_numpy()
    places = np.flatnonzero(admitted)
    if len(places) <= count:
        return None
    chosen = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    others = np.flatnonzero(~admitted)[:count]
    return set(data.models["model"].iloc[np.concatenate([chosen, others])])
