"""What else would explain a correlation that holds: groups of models, or an attribute that the measure follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from acutance.analysis.association import association
from acutance.analysis.decompose import Stratified
from acutance.analysis.judging import ALPHA
from acutance.analysis.kendall import null_sd
from acutance.analysis.machinery.columns import Array
from acutance.analysis.partial import DRAWS, numeric_columns, partial

FOLLOWS = 0.7  # |tau-b| of a measure with an attribute from which on it says what the attribute says
GOES_WITH = 0.3  # an attribute that surely goes less with a measure is not what a relation worth the name comes from
NOISE = 1.96  # standard deviations of a tau without association that it may be off by
PER_LABEL = 3  # models a level of a label needs on average, or holding it fixed leaves nothing
Result = Literal["survives", "vanishes", "turns", "unknown"]


@dataclass(frozen=True)
class Check:
    """One thing that was held fixed, and what was left of the relation.

    Attributes:
        what: the attribute, or the groups.
        result: survives, vanishes, turns into its opposite, or cannot be told.
        text: the same in words.
        follows: whether the measure ranks the models as the attribute does.
    """

    what: str
    result: Result
    text: str
    follows: bool = False


def group_check(tau: float, stratified: Stratified, groups: Sequence[str], of_each: str) -> Check:
    """Judge a relation within groups.

    It survives, or turns, when p is below 5% and the interval leaves out 0. It vanishes when neither is shown and the
    interval leaves out the tau of all models: less is left, and maybe nothing.

    Args:
        tau: of all models.
        stratified: tau over pairs of models of one group, from ``decompose.stratified_tau``.
        groups: names of the attributes that form the groups.
        of_each: the tau of each group, as a text.
    """
    value, low, high, p = stratified.tau, stratified.low, stratified.high, stratified.p
    where = f"within {', '.join(groups).replace('_', ' ')}"
    each = f" ({of_each})" if of_each else f" ({value:+.2f})" if math.isfinite(value) else ""
    if not math.isfinite(value):
        return Check(where, "unknown", f"{where}: no two models to compare")
    if p < ALPHA and not low <= 0 <= high:
        if value * tau > 0:
            return Check(where, "survives", f"holds {where}{each}")
        return Check(where, "turns", f"turns {where}{each}")
    if (high < tau) if tau > 0 else (low > tau):
        return Check(where, "vanishes", f"vanishes {where}{each}")
    interval = f", [{low:+.2f}, {high:+.2f}]" if math.isfinite(low) else ""
    return Check(where, "unknown", f"cannot tell {where} ({value:+.2f}{interval})")


def attribute_checks(t: Array, s: Array, attributes: pd.DataFrame, *, resamples: int, seed: int) -> list[Check]:
    """Judge a relation beyond each attribute that the measure may go with, and beyond all of them together.

    By the partial rank correlation (Spearman's: its 5% test rejects 5%). It survives, or turns, when p is below 5%;
    it vanishes when it is not and less than half of the plain correlation is left.

    Args:
        t: target values, (M,).
        s: values of the measure, (M,).
        attributes: one column an attribute, M rows.
        resamples: permutations.
        seed: names them.
    """
    suspects: dict[str, float] = {}
    for name in attributes.columns:
        column = attributes[name].to_numpy(dtype=object)
        size = _goes_with(s, column)
        if size is not None:
            suspects[str(name)] = size
    settings: dict[str, Any] = {"draws": min(resamples, DRAWS), "seed": seed}
    checks = [_beyond(t, s, attributes[[name]], size, settings) for name, size in suspects.items()]
    if len(suspects) > 1 and all(check.result == "survives" for check in checks):
        checks = [_beyond(t, s, attributes[list(suspects)], 0.0, settings)]
    return checks


def _goes_with(s: Array, column: Any) -> float | None:
    """Return tau-b of a measure with an attribute it may go with (0 for labels without an order); None for others."""
    columns = numeric_columns(column)
    if len(columns) == 1:
        relation = association(columns[0], s, "tau_b", resamples=0, permutations=0)
        return relation.value if abs(relation.value) + NOISE * null_sd(relation.n) >= GOES_WITH else None
    there = np.isfinite(s) & ~pd.isna(column)
    texts = np.array([str(v) for v in column[there]])
    parts = [s[there][texts == level] for level in np.unique(texts)]
    if len(parts) < 2 or len(texts) < PER_LABEL * len(parts) or len(set(s[there])) < 2:
        return None
    # Loading all distributions takes longer than many a study's statistics; labels without an order are rare.
    from scipy.stats import kruskal

    return 0.0 if kruskal(*parts).pvalue < ALPHA else None


def _beyond(t: Array, s: Array, controls: pd.DataFrame, size: float, settings: Mapping[str, Any]) -> Check:
    """Judge what is left beyond controls; ``size`` is tau-b of the measure with a single one that has an order."""
    adjusted = partial(t, s, controls, "spearman", **settings)
    control_names = " and ".join(str(name).replace("_", " ") for name in controls.columns)
    follows = abs(size) >= FOLLOWS
    goes = f", with which it goes ({size:+.2f})" if size else ""
    if adjusted.p < ALPHA:
        if adjusted.value * adjusted.raw > 0:
            return Check(control_names, "survives", f"holds beyond {control_names}", follows)
        return Check(control_names, "turns", f"turns beyond {control_names}{goes}")
    # Controls that explain all of s leave nothing to correlate.
    if not math.isfinite(adjusted.value) or abs(adjusted.value) < abs(adjusted.raw) / 2:
        text = (
            f"it is {control_names} ({size:+.2f}), no relation beyond it"
            if follows
            else f"no relation beyond {control_names}{goes}"
        )
        return Check(control_names, "vanishes", text, follows)
    return Check(control_names, "unknown", f"cannot tell beyond {control_names}{goes}")
