"""What a report is made from, and the selections its figures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from acutance.analysis.judging import outcomes
from acutance.analysis.labels import Namer, definition_key
from acutance.analysis.statistics import Statistic
from acutance.analysis.tables import definition_codes, group_labels
from acutance.presentation import presentation

TARGETS = ["error", "loss"]  # measures whose values are targets


@dataclass(frozen=True)
class ReportData:
    """The tables of a run with what is needed to read them.

    Attributes:
        title: headline.
        config: the resolved study.
        environment: versions and machine.
        models: one row a model, with ``attr.*`` and ``target.*``.
        results: one row a cell.
        correlations: one row a definition, target, level and group.
        problems: one row a cell without a trustworthy number.
        cost: seconds, passes, counts.
        targets: names of targets, in the order of the study.
        groups: attributes that form subgroups.
        figures: colour, marker and size attributes.
        curves: one row a point of a curve that a cell has beside its value; None for a run without.
        pairs: one row a model and partner, of measures that compare models; None for a run without.
        findings: the tables of statistics, by name.
        names: names definitions, where that of these tables alone would not do.
        everything: the whole run of which this is the part that is drawn; None where this is all of it.
        left_out: what is not drawn, in one sentence.
        statistics: that the run has a table of, in the order in which the page tells of them.
        faults: for each statistic that failed, by name, a sentence that says why it has no table.
    """

    title: str
    config: dict[str, Any]
    environment: dict[str, Any]
    models: pd.DataFrame
    results: pd.DataFrame
    correlations: pd.DataFrame
    problems: pd.DataFrame
    cost: dict[str, Any]
    targets: list[str]
    groups: list[str]
    figures: dict[str, Any]
    curves: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    findings: dict[str, pd.DataFrame] = field(default_factory=dict)
    names: Namer | None = None
    everything: ReportData | None = None
    left_out: str = ""
    statistics: Sequence[Statistic] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> ReportData:
        """All of the run, from which what is counted is counted."""
        return self.everything or self

    @cached_property
    def measures(self) -> list[str]:
        """Names of all measures of the tables, those of targets too."""
        return list(
            dict.fromkeys(str(name) for table in (self.results, self.correlations) for name in table["measure"])
        )

    @cached_property
    def outcomes(self) -> list[str]:
        """Targets that count: errors, losses and gaps, each once."""
        return outcomes(self.targets)

    @cached_property
    def relations(self) -> list[str]:
        """The other targets, which are shown apart: attributes, measures, further versions of a target that counts."""
        return [name for name in self.targets if name not in self.outcomes]

    @cached_property
    def levels(self) -> list[str]:
        """Levels of ``within``: models of different ones are never compared."""
        return list(dict.fromkeys(map(str, self.correlations["within"])))

    @cached_property
    def name(self) -> Namer:
        """Names of definitions, without radius, that agree in all tables."""
        if self.names is not None:
            return self.names
        measured = self.results[~self.results["measure"].isin(TARGETS)] if len(self.results) else self.results
        return Namer([*_different(measured)[1], *_different(self.correlations)[1]])

    @cached_property
    def named(self) -> pd.DataFrame:
        """Correlations with the definition's name, without radius, as a column."""
        table = self.correlations.copy()
        return table.assign(definition=self._names(table))

    @cached_property
    def measured(self) -> pd.DataFrame:
        """Results of the measures (not of targets), with the definition's name as a column."""
        table = self.results
        if len(table):
            table = table[~table["measure"].isin(TARGETS)].copy()
        return table.assign(definition=self._names(table))

    def _names(self, table: pd.DataFrame) -> pd.Series:
        """Return the name of each row's definition: each is named once, in whatever many rows it stands."""
        codes, rows = _different(table)
        names = np.array([self.name(row) for row in rows], dtype=object)
        return pd.Series(names[codes] if len(rows) else [], index=table.index, dtype=object)

    @cached_property
    def definitions(self) -> list[str]:
        """Names of definitions, in the order of the study."""
        return list(dict.fromkeys(self.named["definition"]))

    @cached_property
    def _named_by(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.named.groupby("definition", sort=False)}

    @cached_property
    def _measured_by(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.measured.groupby("definition", sort=False)}

    def symbol(self, definition: str) -> str:
        """Return how the measure of a definition abbreviates itself; its name where it does not."""
        measure = str(self._named_by[definition]["measure"].iloc[0])
        return presentation(measure).symbol.replace("lambda_", "λ") or measure

    def members(self, level: str) -> pd.DataFrame:
        """Return the admitted models of a level of ``within``."""
        models = self.models[self.models["admitted"].astype(bool)]
        if level == "all":
            return models
        return models[group_labels(models, self.config["within"], "within") == level]

    def radii(self, definition: str) -> list[float | None]:
        """Return the radii of a definition; [None] for one that has none."""
        rows = self._named_by.get(definition, self.named[:0])
        if "spec.rho" not in rows or rows["spec.rho"].isna().all():
            return [None]
        return [float(rho) for rho in sorted(rows["spec.rho"].dropna().unique())]

    def values(self, definition: str, rho: float | None) -> pd.DataFrame:
        """Return value and standard error by model, averaged over replicates."""
        rows = self._measured_by.get(definition, self.measured[:0])
        if rho is not None:
            rows = rows[np.isclose(rows["spec.rho"].astype(float), rho, rtol=1e-12, atol=0)]
        return rows.groupby("model", sort=False)[["value", "stderr"]].mean()

    def curve_rows(self, level: str, definition: str) -> pd.DataFrame:
        """Return the points of a definition's curves for the models of a level; no rows where there are none."""
        table = self._curves
        return table[(table["definition"] == definition) & table["model"].isin(self.members(level)["model"])]

    def pair_rows(self, level: str, definition: str) -> pd.DataFrame:
        """Return a definition's values of pairs for the models of a level; no rows where there are none."""
        table, names = self._pairs, self.members(level)["model"]
        return table[(table["definition"] == definition) & table["model"].isin(names) & table["partner"].isin(names)]

    @cached_property
    def _curves(self) -> pd.DataFrame:
        return self._defined(self.curves, ["model", "replicate", "curve", "x", "y"])

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        return self._defined(self.pairs, ["model", "replicate", "partner", "value"])

    def _defined(self, table: pd.DataFrame | None, own: list[str]) -> pd.DataFrame:
        """Return a table of what cells have beside their values, with names of definitions; without rows if None."""
        if table is None:
            return pd.DataFrame(columns=[*own, "definition"])
        heads = table[table.columns.difference(own)]
        # A curve has many points and one name.
        first = heads.drop_duplicates()
        definition_of = {definition_key(row): row["definition"] for row in self.measured.to_dict("records")}
        names = {
            tuple(map(str, row.values())): definition_of.get(definition_key(row)) for row in first.to_dict("records")
        }
        definitions = [names[tuple(map(str, row))] for row in heads.itertuples(index=False, name=None)]
        return table.assign(definition=pd.Series(definitions, index=table.index, dtype=object))

    def tau(self, definition: str, rho: float | None, target: str, level: str) -> pd.DataFrame:
        """Return the rows of the correlations table for one panel, indexed by group."""
        t = self._named_by.get(definition, self.named[:0])
        keep = (t["target"] == target) & (t["within"] == level)
        if rho is not None:
            keep &= np.isclose(t["spec.rho"].astype(float), rho, rtol=1e-12, atol=0)
        return t[keep].set_index("group")

    def group_of(self, models: pd.DataFrame) -> pd.Series:
        """Return the group label of each model, as the correlations table spells it; empty without groups."""
        return spelt(models, self.groups)


def spelt(models: pd.DataFrame, names: Sequence[str], between: str = ";") -> pd.Series:
    """Return for each model what it is called by some attributes, those that no model has aside; empty without any."""
    present = [name for name in names if column(models, name)]
    labels: Any = group_labels(models, present, between=between) if present else ""
    return pd.Series(labels, index=models.index, dtype=object)


def radius_key(rho: float | None) -> str:
    """Return a radius as a text that is the same in every table; empty without one."""
    return "" if rho is None or not np.isfinite(rho) else f"{rho:.12g}"


def column(models: pd.DataFrame, name: str | None) -> str | None:
    """Return the column of an attribute, or None when no model has it."""
    for candidate in (f"attr.{name}", name):
        if candidate in models.columns:
            return candidate
    return None


def text(value: Any) -> str:
    """Return a value as group labels spell it: booleans as 0 and 1, whole numbers without a point."""
    if value is True or value is np.True_ or value == "True":
        return "1"
    if value is False or value is np.False_ or value == "False":
        return "0"
    return f"{value:g}" if isinstance(value, float) else str(value)


def target_values(models: pd.DataFrame, target: str) -> pd.Series:
    """Return a target's values by model; NaN where there are none."""
    name = f"attr.{target[5:]}" if target.startswith("attr:") else f"target.{target}"
    values = pd.to_numeric(models[name], errors="coerce") if name in models else pd.Series(np.nan, index=models.index)
    values.index = pd.Index(models["model"])
    return values


def _different(table: pd.DataFrame) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """Return the number of each row's definition, with its radius, and a row of each definition."""
    fields = [c for c in table.columns if str(c).startswith("spec.")]
    codes, first = definition_codes(table, fields)
    return codes, table.iloc[first][["measure", *fields]].to_dict("records") if len(first) else []
