"""What a statistic is computed from: the tables of a study, and its models level by level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from acutance.analysis.judging import RELATIONS, outcomes
from acutance.analysis.labels import Namer, definition_label
from acutance.analysis.machinery.columns import MIN_MODELS, Array
from acutance.analysis.tables import (
    admitted_models,
    definitions_and_values,
    group_labels,
    levels,
    replicates,
    target_values,
)
from acutance.analysis.verdicts import varying_attributes
from acutance.analysis.workload import RESAMPLES


@dataclass(frozen=True)
class StudyTables:
    """The tables of a study, with the settings that say how they are read.

    Attributes:
        models: one row a model: ``model``, ``architecture``, ``pool``, ``admitted``, ``attr.*``, ``target.*``.
        results: one row a model, definition and replicate: ``model``, ``measure``, ``spec.*``, ``value``, ``status``.
        correlations: what ``tables.correlations`` returned for them.
        targets: names of targets.
        groups: attributes whose combinations are the strata.
        within: columns whose levels are kept apart.
        points: test points of the targets that are errors counted on a test set.
        controls: attributes and targets that partial correlations hold fixed, as far as they differ; the groups too.
        resamples: for intervals, and permutations.
        seed: names them.
        done: told of each step of a statistic that takes long, see ``Statistic.steps``.
    """

    models: pd.DataFrame
    results: pd.DataFrame
    correlations: pd.DataFrame
    targets: Sequence[str]
    groups: Sequence[str] = ()
    within: Sequence[str] = ()
    points: Mapping[str, int] = field(default_factory=dict)
    controls: Sequence[str] = ()
    resamples: int = RESAMPLES
    seed: int = 0
    done: Callable[[int], None] = lambda count: None

    @cached_property
    def admitted(self) -> pd.DataFrame:
        """The models that are compared, by name."""
        return admitted_models(self.models)

    @cached_property
    def definitions(self) -> list[dict[str, Any]]:
        """A row for each definition, a measure at its settings: ``measure``, ``spec.*``."""
        return self._defined[0]

    @cached_property
    def name(self) -> Namer:
        """Names definitions, without their radius."""
        return Namer(self.definitions)

    @cached_property
    def levels(self) -> list[Level]:
        """The levels of ``within`` that have enough models; none without a definition."""
        if not len(self.admitted) or not self.definitions:
            return []
        masks = levels(self.admitted, self.within)
        return [Level(self, name, members) for name, members in masks if members.sum() >= MIN_MODELS]

    @cached_property
    def labels(self) -> list[str]:
        """Names of definitions with their radius, one for each of ``definitions``."""
        return [definition_label(row, self.name) for row in self.definitions]

    @cached_property
    def values(self) -> Array:
        """Their values over the admitted models, (D, n), means over replicates; NaN where there is none."""
        return self._defined[1]

    @cached_property
    def replicates(self) -> list[Array | None]:
        """The values of their replicates, (n, R); None for a definition that has one at most."""
        return replicates(self.results, self._fields, list(self.admitted.index))

    @cached_property
    def strata(self) -> NDArray[np.str_] | None:
        """The label of each admitted model's group, (n,); None without groups."""
        return group_labels(self.admitted, self.groups) if self.groups else None

    @cached_property
    def target_values(self) -> dict[str, Array]:
        """The values of the targets over the admitted models, (n,); attributes and measures are not judged as such."""
        return {t: target_values(self.admitted, t) for t in self.targets if not t.startswith(RELATIONS)}

    @cached_property
    def _fields(self) -> list[str]:
        return [str(name) for name in self.results.columns if str(name).startswith("spec.")]

    @cached_property
    def _defined(self) -> tuple[list[dict[str, Any]], Array]:
        return definitions_and_values(self.results, self._fields, list(self.admitted.index))


@dataclass(frozen=True)
class Level:
    """The models of one level of ``within``, which alone are compared with each other.

    Attributes:
        study: whose level it is.
        name: ``architecture=x``, or ``all``.
        members: which of the admitted models they are.
    """

    study: StudyTables
    name: str
    members: NDArray[np.bool_]

    @cached_property
    def models(self) -> pd.DataFrame:
        """Their rows of the table of models, by name, n rows."""
        return self.study.admitted[self.members]

    @cached_property
    def targets(self) -> dict[str, Array]:
        """Target -> values, (n,)."""
        return {name: values[self.members] for name, values in self.study.target_values.items()}

    @cached_property
    def outcomes(self) -> dict[str, Array]:
        """Those that count, each once though it was given and measured: a hypothesis is about generalization."""
        return {name: self.targets[name] for name in outcomes(self.study.targets)}

    @cached_property
    def values(self) -> pd.DataFrame:
        """A column for each definition, named with its radius, n rows."""
        rows = zip(self.study.labels, self.study.values, strict=True)
        return pd.DataFrame({name: row[self.members] for name, row in rows})

    @cached_property
    def replicates(self) -> dict[str, Array | None]:
        """Definition -> values of its replicates, (n, R); None for one that has one at most."""
        rows = zip(self.study.labels, self.study.replicates, strict=True)
        return {name: None if row is None else row[self.members] for name, row in rows}

    @cached_property
    def groups(self) -> NDArray[np.str_] | None:
        """The label of each model's group, (n,); None without groups."""
        return None if self.study.strata is None else self.study.strata[self.members]

    @cached_property
    def attributes(self) -> pd.DataFrame:
        """A column for each attribute that differs between the models, n rows."""
        return varying_attributes(self.models)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """A column for each control that differs between the models, n rows: the study's, and its groups."""
        columns = {}
        for name in dict.fromkeys([*self.study.groups, *self.study.controls]):
            column = self._column(name)
            if column is not None and self.models[column].nunique(dropna=True) > 1:
                columns[name] = self.models[column].reset_index(drop=True)
        return pd.DataFrame(columns)

    @cached_property
    def measured_controls(self) -> list[str]:
        """The controls that are targets: these are measured, as a train loss, where attributes are given."""
        return [str(name) for name in self.controls if str(self._column(str(name))).startswith("target.")]

    @cached_property
    def definitions(self) -> list[tuple[dict[str, Any], Array]]:
        """Each definition, ``measure`` and ``spec.*``, with its values over the models, (n,)."""
        rows = zip(self.study.definitions, self.study.values, strict=True)
        return [(row, values[self.members]) for row, values in rows]

    def _column(self, name: str) -> str | None:
        """Return the column of an attribute or target; None where no model has it."""
        return next((c for c in (name, f"attr.{name}", f"target.{name}") if c in self.models), None)
