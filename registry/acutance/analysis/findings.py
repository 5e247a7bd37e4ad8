"""What a study's tables say beyond single correlations: ceilings, confounds, hypotheses, redundant measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.association import association
from acutance.analysis.associations import associations, chosen_controls, held_out_radii, measured_controls
from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.columns import MIN_MODELS, Array
from acutance.analysis.hypotheses import FORMS, Hypothesis, strong, weak
from acutance.analysis.judging import RELATIONS, outcomes
from acutance.analysis.labels import Namer, definition_label
from acutance.analysis.matrix import matrix
from acutance.analysis.partial import confounds
from acutance.analysis.tables import (
    admitted_models,
    definitions_and_values,
    group_labels,
    levels,
    replicates,
    target_values,
)
from acutance.analysis.verdicts import varying_attributes

PAIRED = 400  # definitions that are compared with each other
RESAMPLES = 1999  # enough for a verdict; a table of correlations has 9999


@dataclass(frozen=True)
class Findings:
    """Tables of one study, a row each for what is named first; all have a column ``within``.

    Attributes:
        associations: a definition and a target: other coefficients, tau inside groups and beyond the controls.
        ceilings: a target: the tau that a perfect measure is expected to show.
        confounds: a definition and an attribute: tau-b, interval, p.
        hypotheses: a definition and a hypothesis: verdict and reason; for the weak one, strict and wide, a target too.
        pairwise: two definitions: tau-b between them, and the cluster of the first.
        radii: a definition and a target: the radius chosen on one half of the models, judged on the other.
    """

    associations: pd.DataFrame
    ceilings: pd.DataFrame
    confounds: pd.DataFrame
    hypotheses: pd.DataFrame
    pairwise: pd.DataFrame
    radii: pd.DataFrame

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return dict(vars(self))


def findings(
    models: pd.DataFrame,
    results: pd.DataFrame,
    *,
    targets: Sequence[str],
    groups: Sequence[str] = (),
    within: Sequence[str] = (),
    points: Mapping[str, int] | None = None,
    controls: Sequence[str] = (),
    threshold: float = 0.3,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Findings:
    """Return what the tables of a study say beyond single correlations.

    Attributes and measures are not judged as targets, and a hypothesis is about generalization: a target that was given
    and measured counts once in it (``judging.outcomes``).

    Args:
        models: as for ``correlations``.
        results: as for ``correlations``.
        targets: names of targets.
        groups: attributes whose combinations are the strata.
        within: columns whose levels are kept apart.
        points: test points of the targets that are errors counted on a test set.
        controls: attributes and targets that partial correlations hold fixed, as far as they differ; the groups too.
        threshold: the smallest tau that the strong hypothesis takes.
        resamples: for intervals, and permutations.
        seed: names them.
    """
    admitted = admitted_models(models)
    if not len(admitted):
        return Findings(**{field.name: _empty() for field in dataclasses.fields(Findings)})
    fields = [c for c in results.columns if c.startswith("spec.")]
    definitions, values = definitions_and_values(results, fields, list(admitted.index))
    name = Namer(definitions)
    names = [definition_label(row, name) for row in definitions]
    judged = [t for t in targets if not t.startswith(RELATIONS)]
    once = outcomes(targets)
    columns = {t: target_values(admitted, t) for t in judged}
    strata = group_labels(admitted, groups) if groups else None
    settings = {"resamples": resamples, "permutations": resamples, "seed": seed}
    noise = replicates(results, fields, list(admitted.index))
    parts: dict[str, list[pd.DataFrame]] = {field.name: [] for field in dataclasses.fields(Findings)}
    for level, members in levels(admitted, within):
        if members.sum() < MIN_MODELS or not definitions:
            continue
        t = {k: v[members] for k, v in columns.items()}
        s = pd.DataFrame({n: row[members] for n, row in zip(names, values, strict=True)})
        labels = None if strata is None else strata[members]
        held = chosen_controls(admitted[members], [*groups, *controls])
        own = {n: None if r is None else r[members] for n, r in zip(names, noise, strict=True)}
        found = {
            "associations": associations(
                t, {n: s[n].to_numpy(np.float64) for n in names}, labels, held, own,
                measured=measured_controls(admitted, held), resamples=resamples, seed=seed,
            ),
            "radii": held_out_radii(definitions, values[:, members], t, name, seed=seed),
            "ceilings": pd.DataFrame(list(_ceilings(t, points or {}, seed))),
            "confounds": _confounds(s, varying_attributes(admitted[members]), settings),
            "hypotheses": pd.DataFrame(list(_hypotheses({k: t[k] for k in once}, s, labels, threshold, settings))),
            "pairwise": _pairwise(s, t),
        }  # fmt: skip
        for key, table in found.items():
            table.insert(0, "within", level)
            parts[key].append(table)
    return Findings(**{key: pd.concat(some, ignore_index=True) if some else _empty() for key, some in parts.items()})


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=["within"])


def _ceilings(t: Mapping[str, Array], points: Mapping[str, int], seed: int) -> Iterator[dict[str, Any]]:
    for target, values in t.items():
        if target in points:
            found = noise_ceiling(values, points[target], seed=seed)
            yield {"target": target, "points": points[target], **vars(found)}


def _confounds(s: pd.DataFrame, attributes: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    table = confounds(s, attributes, **settings) if attributes.shape[1] else confounds(s, attributes)
    return table.rename(columns={"measure": "definition", "value": "tau"})


def _hypotheses(
    t: Mapping[str, Array], s: pd.DataFrame, labels: Any, threshold: float, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for definition in s.columns if t else ():
        column, tried = s[definition].to_numpy(np.float64), s.shape[1]
        # The verdict rests on intervals; p-values are in other tables.
        found = strong(t, column, labels, threshold=threshold, comparisons=tried, **{**settings, "permutations": 0})
        yield _row(definition, "all targets", found)
        for target, values in t.items():
            for form in FORMS:
                yield _row(definition, target, weak(values, column, labels, form=form, comparisons=tried, slopes=False))


def _row(definition: str, target: str, found: Hypothesis) -> dict[str, Any]:
    return {
        "definition": definition, "hypothesis": found.name, "target": target, "verdict": found.verdict,
        "reason": found.reason, "short": found.short, "needed": found.needed,
    }  # fmt: skip


def _pairwise(s: pd.DataFrame, t: Mapping[str, Array]) -> pd.DataFrame:
    """Return a row for two definitions; of very many those that go most with a target, which ``note`` says."""
    count, note = s.shape[1], ""
    if count > PAIRED:
        note = f"the {PAIRED} of {count} definitions with the largest |tau| to a target"
        largest = [max((abs(_tau(values, s[name])) for values in t.values()), default=0.0) for name in s.columns]
        s = s.iloc[:, np.sort(np.argsort(-np.array(largest), kind="stable")[:PAIRED])]
    found = matrix(s)
    order = found.order
    tau, n = (table.loc[order, order].to_numpy() for table in (found.tau, found.n))
    pairs = pd.MultiIndex.from_product([order, order], names=["definition", "other"]).to_frame(index=False)
    clusters = [found.clusters[a] for a in pairs["definition"]]
    return pairs.assign(n=n.reshape(-1).astype(np.int64), tau=tau.reshape(-1), cluster=clusters, note=note)


def _tau(t: Array, s: pd.Series) -> float:
    value = association(t, s.to_numpy(np.float64), resamples=0, permutations=0).value
    return value if np.isfinite(value) else 0.0
