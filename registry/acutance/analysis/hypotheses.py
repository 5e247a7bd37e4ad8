r"""The paper's two hypotheses as tests with a verdict: supported, refuted or inconclusive.

Strong: sharpness and generalization go together over all models. Weak: the flattest models generalize well, which
makes flatness sufficient and not necessary. Neither follows from a small p-value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from acutance.analysis.association import association
from acutance.analysis.decompose import stratified_at_levels
from acutance.analysis.kendall import tau_at_levels
from acutance.analysis.machinery.columns import MIN_MODELS, complete, constant, joined
from acutance.analysis.machinery.selection import clopper_pearson, flattest, quantile_slope
from acutance.analysis.power import models_needed
from acutance.errors import UserError

__all__ = ["Hypothesis", "Verdict", "models_needed", "strong", "weak"]

WIDEST = 1 / 3  # share of the models that are still called the flattest
Verdict = Literal["supported", "refuted", "inconclusive"]
Name = Literal["strong", "weak", "weak_wide"]
Form = Literal["strict", "wide"]
FORMS: tuple[Form, ...] = ("strict", "wide")


@dataclass(frozen=True)
class Hypothesis:
    """A verdict with the rows it rests on.

    Attributes:
        name: strong, weak, or weak_wide for the wide form.
        verdict: supported when every row is, refuted when one is refuted at a level corrected for the
            number of rows, else inconclusive.
        reason: the verdict in one sentence.
        rows: one a target and scope, with its numbers and its own verdict.
        short: rows of the weak one with so few models that no outcome could have supported it.
        needed: models that each row of the weak one needs for that; 0 for the strong one, which has no such number.
    """

    name: Name
    verdict: Verdict
    reason: str
    rows: Sequence[Mapping[str, Any]]
    short: int = 0
    needed: int = 0

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows as a table: made when it is asked for, since a study judges thousands of measures without one."""
        return pd.DataFrame(self.rows)


def strong(
    targets: Mapping[str, Any] | pd.DataFrame,
    s: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    threshold: float = 0.3,
    confidence: float = 0.95,
    comparisons: int = 1,
    resamples: int = 9999,
    permutations: int = 9999,
    seed: int = 0,
) -> Hypothesis:
    r"""Judge "flatter models generalize better": tau above a threshold, pooled and within groups, for every target.

    A row is supported when the lower end of its interval is above the threshold. All rows must be, which needs no
    correction for their number (an intersection-union test). It is refuted when the upper end lies below the
    threshold at a level divided by the number of rows, since one row is enough.

    Args:
        targets: name -> values, larger is worse, (M,) each.
        s: values of one measure, larger is sharper, (M,).
        groups: labels for the stratified rows; without them there are only pooled ones.
        threshold: the smallest tau worth the name; the paper marks 0.5.
        confidence: two-sided level of the intervals.
        comparisons: definitions of sharpness that were tried (Bonferroni); pick the best of 48 and it is 48.
        resamples: for the intervals.
        permutations: for p.
        seed: names both.

    Returns:
        Rows with target, scope (pooled or stratified), n, tau, low, high, p, verdict, note.

    Raises:
        UserError: without targets, for a threshold outside [0, 1), or columns of different lengths.
    """
    names = list(targets)
    if not names:
        raise UserError("targets: at least one is needed")
    if not 0 <= threshold < 1 or comparisons < 1 or not 0 < confidence < 1:
        raise UserError("threshold, confidence, comparisons: need 0 <= threshold < 1, a level, at least one comparison")
    scopes = ["pooled"] if groups is None else ["pooled", "stratified"]
    alpha = (1 - confidence) / comparisons
    settings: dict[str, Any] = {"resamples": resamples, "permutations": permutations, "seed": seed}
    rows = []
    for name in names:
        for scope in scopes:
            levels = [1 - alpha, 1 - alpha / (len(names) * len(scopes))]
            estimate, strict = _tau(targets[name], s, groups, scope, levels, settings)
            verdict = _judged(estimate["low"] > threshold, strict["high"] < threshold)
            note = estimate.pop("note")
            rows.append({"target": name, "scope": scope, **estimate, "verdict": verdict, "note": note})
    return _hypothesis("strong", rows, f"tau above {threshold:g}")


def weak(
    t: ArrayLike,
    s: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    form: Form = "strict",
    q: float = 0.1,
    tolerated: float | None = None,
    stderr: ArrayLike | None = None,
    confidence: float = 0.95,
    comparisons: int = 1,
    slopes: bool = True,
    permutations: int = 9999,
    seed: int = 0,
) -> Hypothesis:
    r"""Judge "the flattest models generalize well", pooled and in every group.

    F are the ceil(qM) flattest models; one above the median target is a violation. A row is supported when the
    exact upper bound of the violation rate is below what is tolerated, refuted when its lower bound, at a level
    divided by the number of rows, is above. Few models settle nothing: 0 of 5 still leaves an upper bound of 45%,
    and 29 without a violation are needed for 10%; where fewer are chosen, note and reason say that no outcome could
    have supported the claim, and how many models could.

    The ``wide`` form makes a weaker claim that 50 to 200 models can decide: F are at least as many as it takes, by
    their number alone (14 without a violation exclude 20%), as long as these are at most a third of the models. Its
    error rates are those of the exact bound: it supports a violation rate of what is tolerated in at most 5% of cases.

    Args:
        t: target values, larger is worse, (M,).
        s: values of one measure, larger is sharper, (M,).
        groups: labels; each group has a row of its own, with its own flattest models and median.
        form: ``strict``, or ``wide``: more of the flattest, and more tolerated.
        q: share of models that is chosen, at least.
        tolerated: largest acceptable rate of violations, 0.1 or for the wide form 0.2; a random choice has one half.
        stderr: standard errors of s, (M,): models within two of the cut count as equally flat.
        confidence: of each one-sided bound.
        comparisons: definitions that were tried (Bonferroni).
        slopes: whether to compute the slope too, on which no verdict rests and which takes most of the time.
        permutations: for the slope's p.
        seed: names them.

    Returns:
        Rows with scope (pooled or the group), the fields of ``Selection``, slope and slope_p of the 0.9 quantile
        over the flatter half, verdict and note.

    Raises:
        UserError: for shares outside (0, 1), or columns of different lengths.
    """
    if form not in FORMS:
        raise UserError(f"form: '{form}' is not known", "choose strict or wide")
    tolerated = {"strict": 0.1, "wide": 0.2}[form] if tolerated is None else tolerated
    if not 0 < tolerated < 1 or comparisons < 1 or not 0 < confidence < 1:
        raise UserError("tolerated, confidence, comparisons: need shares between 0 and 1 and at least one comparison")
    x, y = np.asarray(t, np.float64), np.asarray(s, np.float64)
    complete(x, y)  # tells columns of different lengths
    e = np.zeros(len(x)) if stderr is None else np.asarray(stderr, np.float64)
    scopes = {"pooled": np.ones(len(x), bool)}
    if groups is not None:
        labels = np.array([str(label) for label in np.asarray(groups, dtype=object)])
        if labels.shape != x.shape:
            raise UserError(f"groups: must have one label a model, got shape {labels.shape} for {len(x)} models")
        scopes.update({str(label): labels == label for label in np.unique(labels)})
    alpha = (1 - confidence) / comparisons
    least = fewest(tolerated, 1 - alpha)
    rows, short = [], 0
    for scope, members in scopes.items():
        share = q if form == "strict" else _widened(q, least, int((~np.isnan(x[members] + y[members])).sum()))
        selection = flattest(x[members], y[members], share, stderr=e[members], confidence=1 - alpha)
        slope = (
            quantile_slope(x[members], y[members], span=0.5, permutations=permutations, seed=seed) if slopes else None
        )
        refuted = False
        if selection.chosen:
            strict, _ = clopper_pearson(selection.violations, selection.chosen, 1 - alpha / len(scopes))
            refuted = strict > tolerated
        verdict = _judged(selection.violation_high < tolerated, refuted)
        fields = {k: v for k, v in vars(selection).items() if k != "note"}
        note = selection.note
        if 0 < selection.chosen < least:
            short += 1
            note = joined(note, f"{selection.chosen} models cannot show it: {least} without a violation are needed")
        rows.append(
            {
                "scope": scope,
                **fields,
                **({"slope": slope.slope, "slope_p": slope.p} if slope else {}),
                "verdict": verdict,
                "note": note,
            }
        )
    name: Name = "weak" if form == "strict" else "weak_wide"
    judged = _hypothesis(name, rows, f"at most {tolerated:.0%} of the flattest above the median")
    models = math.ceil(least / (q if form == "strict" else max(q, WIDEST)) - 1e-9)
    judged = replace(judged, short=short, needed=models)
    if judged.verdict != "inconclusive" or not short:
        return judged
    why = f"; no outcome could show it in {short} of them: that takes {models} models, or {least} as flat as the chosen"
    return replace(judged, reason=judged.reason + why)


@lru_cache(maxsize=256)
def fewest(tolerated: float, confidence: float) -> int:
    """Return how many of the flattest, none of them a violation, exclude a violation rate of what is tolerated."""
    k = max(1, math.floor(math.log(1 - confidence) / math.log(1 - tolerated)))
    while clopper_pearson(0, k, confidence)[1] >= tolerated:
        k += 1
    return k


def _widened(q: float, least: int, n: int) -> float:
    """Return the share that is enough to decide, by the number of models alone; as it is where that is too many."""
    return max(q, least / n) if least <= WIDEST * n + 1e-9 else q


def _tau(
    t: ArrayLike, s: ArrayLike, groups: ArrayLike | None, scope: str, levels: Sequence[float], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a row at each level of confidence."""
    if scope == "stratified" and groups is not None:
        rows = [vars(result) for result in stratified_at_levels(t, s, groups, levels, **settings)]
    else:
        (x, y), _, note = complete(t, s)
        if len(x) < MIN_MODELS or constant(x) or constant(y):
            rows = [vars(association(t, s, **settings)) | {"tau": math.nan}] * len(levels)
        else:
            results = tau_at_levels(x, y, levels, "a", "rank_max", **settings)
            # Infinities are told by ``complete`` already.
            rows = [vars(one) | {"note": joined(note, "" if "ranked" in one.note else one.note)} for one in results]
    return [{key: row[key] for key in ("n", "tau", "low", "high", "p", "note")} for row in rows]


def _judged(supported: bool, refuted: bool) -> Verdict:
    """Comparisons with NaN are false, so what has no bound is inconclusive."""
    return "supported" if supported else "refuted" if refuted else "inconclusive"


def _hypothesis(name: Name, rows: Sequence[Mapping[str, Any]], claim: str) -> Hypothesis:
    against = [row for row in rows if row["verdict"] == "refuted"]
    if against:
        where = " ".join(str(against[0][c]) for c in ("target", "scope") if c in against[0])
        return Hypothesis(name, "refuted", f"{claim} is excluded in {len(against)} of {len(rows)} rows ({where})", rows)
    open_rows = len([row for row in rows if row["verdict"] == "inconclusive"])
    if open_rows:
        reason = f"{claim} is neither shown nor excluded in {open_rows} of {len(rows)} rows"
        return Hypothesis(name, "inconclusive", reason, rows)
    return Hypothesis(name, "supported", f"{claim} in all {len(rows)} rows", rows)
