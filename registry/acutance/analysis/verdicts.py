"""One line a measure in plain words: whether its relation holds, and what else would explain it.

The line is about the strongest of the measure's correlations that hold (``judging.holds``), or the strongest of all
where none does; docs/statistics.md lists the rules. Models are few and confounders many, so three answers are kept
apart: shown, excluded, and cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.decompose import stratified_tau
from acutance.analysis.explained import Check, attribute_checks, group_check
from acutance.analysis.judging import counted, holding, outcomes
from acutance.analysis.labels import Namer, definition_label, spec_fields, target_label, with_radius
from acutance.analysis.machinery.columns import Array
from acutance.analysis.tables import admitted_models, definitions_and_values, group_labels, levels, target_values

FEW = 8  # models below which confounds cannot be looked for; halves of them say nothing either
SMALL = 0.3  # a tau below the threshold of the strong hypothesis is none worth the name
GROUPS_SHOWN = 6  # taus of groups that a line lists
NAMED = 3  # measures that the conclusion names
EXPLAINED = ("confounded", "follows")
ORDER = ["good", "inverse", "mixed", "holds", "confounded", "follows", "none", "unclear", "no value"]
COLUMNS = [
    "within", "definition", "verdict", "line", "target", "rho", "n", "tau", "low", "high", "p_adjusted", "holding",
    "comparisons",
]  # fmt: skip


Record = dict[str, Any]  # a row of the table of correlations


@dataclass(frozen=True)
class Models:
    """What is known of the models of one level.

    Attributes:
        targets: name -> values, (n,).
        values: definition with its radius -> values, (n,).
        attributes: one column an attribute that differs, n rows.
        groups: label of each model's group, (n,); None without groups.
        grouping: names of the attributes that form them.
    """

    targets: Mapping[str, Array]
    values: Mapping[str, Array]
    attributes: pd.DataFrame
    groups: Any
    grouping: Sequence[str]

    @cached_property
    def others(self) -> pd.DataFrame:
        """The attributes that form no groups."""
        return self.attributes.drop(columns=list(self.grouping), errors="ignore")


def verdicts(
    models: pd.DataFrame,
    results: pd.DataFrame,
    correlations: pd.DataFrame,
    *,
    targets: Sequence[str],
    groups: Sequence[str] = (),
    within: Sequence[str] = (),
    resamples: int = 1999,
    seed: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """Return one row for each level and definition (all radii together) with its verdict in one line.

    Confounds are looked for only where something holds, so that the lines cost little beside the correlations.

    Args:
        models: as for ``correlations``.
        results: as for ``correlations``.
        correlations: what ``correlations`` returned for them.
        targets: names of targets; those that do not count (``judging.outcomes``) are passed over.
        groups: attributes whose combinations form subgroups.
        within: columns whose levels are kept apart.
        resamples: for intervals, and permutations.
        seed: names them.
        done: told of each verdict.

    Returns:
        Columns ``COLUMNS``. ``verdict`` is one of ``ORDER``; ``line`` begins with it; ``target`` to
        ``p_adjusted`` are those of the correlation that the line is about; ``holding`` of ``comparisons`` correlations
        of the measure hold.
    """
    admitted = admitted_models(models)
    if not len(admitted):
        return pd.DataFrame(columns=COLUMNS)
    fields = [c for c in results.columns if c.startswith("spec.")]
    definitions, values = definitions_and_values(results, fields, list(admitted.index))
    name = Namer(definitions)
    labels = group_labels(admitted, groups) if groups else None
    judged = outcomes(targets)
    columns = {t: target_values(admitted, t) for t in judged}
    rows: list[dict[str, Any]] = []
    for level, members in levels(admitted, within):
        of_level = correlations[correlations["within"] == level]
        if not len(of_level) or not definitions:
            continue
        here = Models(
            {t: v[members] for t, v in columns.items()},
            {definition_label(d, name): v[members] for d, v in zip(definitions, values, strict=True)},
            varying_attributes(admitted[members]),
            None if labels is None else labels[members],
            groups,
        )
        by_name = _by_definition(of_level.reset_index(drop=True), targets, name)
        for definition in dict.fromkeys(name(d) for d in definitions):
            verdict = _verdict(by_name.get(definition, []), here, resamples, seed)
            done(1)
            rows.append({"within": level, "definition": definition, **verdict})
    return pd.DataFrame(rows, columns=COLUMNS)


def _by_definition(table: pd.DataFrame, targets: Sequence[str], name: Namer) -> dict[str, list[Record]]:
    """Return the rows by definition as records, each with its label, whether it counts, and whether it holds.

    Thousands of definitions are judged: selections of a table of all of them take longer than the verdicts.
    """
    counts, hold = table.index.isin(counted(table, targets).index), holding(table)
    records: dict[str, list[Record]] = {}
    for row, counting, held in zip(table.to_dict("records"), counts, hold, strict=True):
        record: Record = {str(key): value for key, value in row.items()}
        definition = name(record)
        judgement = {"label": with_radius(definition, record), "counts": counting, "holds": held}
        records.setdefault(definition, []).append(record | judgement)
    return records


def varying_attributes(models: pd.DataFrame) -> pd.DataFrame:
    """Return the attributes that differ between these models."""
    named = models[[c for c in models.columns if c.startswith("attr.")]]
    varying = named.loc[:, named.nunique(dropna=True) > 1]
    return varying.rename(columns=lambda c: c.removeprefix("attr.")).reset_index(drop=True)


def conclusion(table: pd.DataFrame) -> str:
    """Return in one sentence whether anything holds, of the verdicts of one level."""
    comparisons, held = int(table["comparisons"].sum()), int(table["holding"].sum())
    several = f"{comparisons} correlation{'s' * (comparisons != 1)} of {len(table)} measure{'s' * (len(table) != 1)}"
    if not comparisons:
        return "Nothing can be said: there is no correlation."
    if not held:
        return f"Nothing holds: none of {several} does after adjustment (family-wise error 5%)."
    start = f"{held} of {several} {'holds' if held == 1 else 'hold'} after adjustment (family-wise error 5%)"
    kinds = {kind: list(part["definition"]) for kind, part in table.groupby("verdict", sort=False)}
    beyond = kinds.get("good", []) + [f"{name} (inverse)" for name in kinds.get("inverse", [])]
    if beyond:
        return f"{start}; beyond groups and attributes: {_listed(beyond)}."
    if undecided := kinds.get("holds", []) + kinds.get("mixed", []):
        return f"{start}; whether beyond groups and attributes cannot be told: {_listed(undecided)}."
    return f"{start}; none beyond groups and attributes: they explain what holds."


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts of one level, what holds first."""
    return (
        table.assign(place=table["verdict"].map(ORDER.index)).sort_values("place", kind="stable").drop(columns="place")
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# -- one measure ----------------------------------------------------------------------------------------------


def _verdict(everything: Sequence[Record], models: Models, resamples: int, seed: int) -> dict[str, Any]:
    """Return the verdict on one definition from its correlations that count, and from those of groups."""
    rows = [row for row in everything if row["counts"]]
    if not rows:
        texts = (row["note"] for row in everything)
        note = next((text for text in texts if isinstance(text, str) and text), "nothing to compare")
        return {"verdict": "no value", "line": f"no value: {note}", "holding": 0, "comparisons": 0}
    held = [row for row in rows if row["holds"]]
    first = max(held or rows, key=lambda row: abs(row["tau"]))
    head = _head(first, rows)
    if not held:
        verdict, text = _not_shown(rows, first, head)
    elif len({np.sign(row["tau"]) for row in held}) > 1:
        verdict, text = "mixed", _both_signs(held, rows)
    else:
        verdict, text = _beyond_confounds(first, head, everything, models, resamples, seed)
    if 0 < len(held) < len(rows):
        text += f"; {len(held)} of {len(rows)} correlations hold"
    estimate = {key: first[key] for key in ("target", "n", "tau", "low", "high", "p_adjusted")}
    return {
        "verdict": verdict, "line": f"{SPOKEN.get(verdict, verdict)}{':' * (verdict != 'follows')} {text}", **estimate,
        "rho": spec_fields(first).get("rho", math.nan), "holding": len(held), "comparisons": len(rows),
    }  # fmt: skip


SPOKEN = {"none": "no relation", "unclear": "cannot tell"}


def _head(row: Record, rows: Sequence[Record]) -> str:
    """Name a correlation as far as the measure has several: ``+0.83 with test error at ρ = 0.01``."""
    target = (
        f" with {in_words(target_label(str(row['target'])))}" if len({other["target"] for other in rows}) > 1 else ""
    )
    rho = spec_fields(row).get("rho")
    several = len({spec_fields(other).get("rho") for other in rows} - {None}) > 1
    return f"{row['tau']:+.2f}{target}" + (f" at ρ = {float(rho):g}" if several and rho is not None else "")


def in_words(name: str) -> str:
    """Return a name as sentences write it."""
    return name.removeprefix("attr:").replace("_", " ")


def _interval(row: Record) -> str:
    return f" [{row['low']:+.2f}, {row['high']:+.2f}]" if np.isfinite(row["low"]) else ""


def _not_shown(rows: Sequence[Record], first: Record, head: str) -> tuple[str, str]:
    """Say of what does not hold whether it is excluded, or the models cannot tell."""
    n = int(first["n"])
    if n < FEW:
        return "unclear", f"{n} models ({head})"
    if all(row["low"] > -SMALL and row["high"] < SMALL for row in rows):
        return "none", f"{head}{_interval(first)}"
    p = first["p_adjusted"]
    adjusted = f", adjusted p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}" if np.isfinite(p) else ""
    return "unclear", f"{head}{_interval(first)} of {n} models{adjusted}"


def _both_signs(held: Sequence[Record], rows: Sequence[Record]) -> str:
    ends = [chosen(held, key=lambda row: row["tau"]) for chosen in (max, min)]
    return f"{' but '.join(_head(row, rows) for row in ends)}; the sign depends on what is asked"


def _beyond_confounds(
    row: Record, head: str, everything: Sequence[Record], models: Models, resamples: int, seed: int
) -> tuple[str, str]:
    """Return the verdict on a correlation that holds: what is left of it within groups and beyond attributes."""
    if row["n"] < FEW:
        return "holds", f"{head}, but {int(row['n'])} models are too few to look for confounds"
    t, s = models.targets[str(row["target"])], models.values[str(row["label"])]
    checks: list[Check] = []
    if models.groups is not None:
        stratified = stratified_tau(t, s, models.groups, resamples=resamples, permutations=resamples, seed=seed)
        checks.append(group_check(float(row["tau"]), stratified, models.grouping, _of_groups(row, everything)))
    checks += attribute_checks(t, s, models.others, resamples=resamples, seed=seed)
    if not checks and models.groups is None and not models.others.shape[1]:
        return "holds", f"{head}; no groups and no attributes are known, so no confounds"
    return _weighed(float(row["tau"]), head, checks, list(models.others.columns))


def _weighed(tau: float, head: str, checks: Sequence[Check], attributes: Sequence[str]) -> tuple[str, str]:
    """Return the verdict that the checks leave: one that explains the relation outweighs all others."""
    for check in checks:
        if check.result in ("vanishes", "turns"):
            if check.follows and check.result == "vanishes":
                return "follows", f"{in_words(check.what)}: {head}, but {check.text}"
            return "confounded", f"{head}, {check.text}"
    open_ones = [check.text for check in checks if check.result == "unknown"]
    if open_ones:
        return "holds", f"{head}, but {'; '.join(open_ones)}"
    survived = [check.text for check in checks]
    if not survived:
        survived = [f"goes with none of {', '.join(map(in_words, attributes))}"]
    return ("good" if tau > 0 else "inverse"), f"{head}, {', '.join(survived)}"


def _of_groups(row: Record, everything: Sequence[Record]) -> str:
    """Return the tau of each group, ``+0.72/+0.59``, for the same radius and target; empty for very many."""
    same = [other for other in everything if (other["label"], other["target"]) == (row["label"], row["target"])]
    taus = [other["tau"] for other in same if other["group"] != "all" and not math.isnan(other["tau"])]
    return "/".join(f"{tau:+.2f}" for tau in taus) if 0 < len(taus) <= GROUPS_SHOWN else ""
