"""Tables beside the correlations: other coefficients, tau within groups and beyond the controls, held-out radii."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from acutance.analysis.association import METHODS, association
from acutance.analysis.columns import Array, joined
from acutance.analysis.decompose import stratified_tau
from acutance.analysis.labels import Namer, spec_fields
from acutance.analysis.multiplicity import held_out_radius
from acutance.analysis.partial import partial
from acutance.analysis.reliability import reliability

PARTIAL = 499  # simulated pools for the p of partial correlations
ASSOCIATIONS = [
    "definition", "target", "n", "ties", *METHODS, "jackknife_low", "jackknife_high",
    "stratified", "stratified_low", "stratified_high", "stratified_p",
    "partial_kendall", "partial_kendall_p", "partial_spearman", "partial_spearman_p", "partial_n", "controls",
    "icc", "icc_mean", "replicates", "replicate_lowest", "replicate_highest", "note",
]  # fmt: skip
RADII = ["definition", "target", "n", "chosen", "share", "tau", "low", "high", "best", "optimism", "note"]


def associations(
    targets: Mapping[str, Array],
    values: Mapping[str, Array],
    groups: NDArray[np.str_] | None = None,
    controls: pd.DataFrame | None = None,
    replicates: Mapping[str, Array | None] | None = None,
    *,
    measured: Collection[str] = (),
    resamples: int = 1999,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row for each definition and target.

    The five coefficients of ``association``, the jackknife's interval of tau-a; tau inside groups (``stratified_tau``);
    partial Kendall and Spearman beyond the controls (``partial``), on the ``partial_n`` models that have all of them;
    with replicates the intraclass correlation and the range of tau over single replicates (``reliability``).

    Args:
        targets: name -> values, (M,).
        values: definition -> values, (M,).
        groups: labels of the strata, (M,).
        controls: one column a control, the same models.
        replicates: definition -> values, (M, R), of those that have some.
        measured: controls that are measured themselves (see ``partial``).
        resamples: for intervals, and permutations.
        seed: names them.
    """
    # What is to be predicted is not held fixed.
    held = {
        target: controls.drop(columns=[target, target.removeprefix("attr:")], errors="ignore")
        for target in targets
        if controls is not None
    }
    rows = [
        _row(name, target, t, s, groups, held.get(target), measured, (replicates or {}).get(name), resamples, seed)
        for name, s in values.items()
        for target, t in targets.items()
    ]
    return pd.DataFrame(rows, columns=ASSOCIATIONS)


def _row(
    name: str, target: str, t: Array, s: Array, groups: NDArray[np.str_] | None, controls: pd.DataFrame | None,
    measured: Collection[str], noise: Array | None, resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    first = association(t, s, "tau_a", interval="jackknife", resamples=resamples, permutations=0, seed=seed)
    plain = {m: first if m == "tau_a" else association(t, s, m, resamples=0, permutations=0) for m in METHODS}
    row: dict[str, Any] = {"definition": name, "target": target, "n": first.n, "ties": first.ties, "note": first.note}
    row |= {method: found.value for method, found in plain.items()}
    row |= {"jackknife_low": first.low, "jackknife_high": first.high}
    settings: dict[str, Any] = {"permutations": resamples, "seed": seed}
    if groups is not None:
        within = stratified_tau(t, s, groups, resamples=resamples, **settings)
        row |= {
            "stratified": within.tau, "stratified_low": within.low, "stratified_high": within.high,
            "stratified_p": within.p,
        }  # fmt: skip
    if controls is not None and controls.shape[1]:
        # The p is that of both.
        kendall = partial(t, s, controls, "kendall", measured=measured, draws=min(resamples, PARTIAL), seed=seed)
        spearman = partial(t, s, controls, "spearman", draws=0)
        row |= {
            "partial_kendall": kendall.value, "partial_kendall_p": kendall.p, "partial_spearman": spearman.value,
            "partial_spearman_p": kendall.p, "partial_n": kendall.n, "controls": ", ".join(kendall.controls),
            "note": joined(first.note, kendall.note and f"partial: {kendall.note}"),
        }  # fmt: skip
    if noise is not None:
        found = reliability(t, noise)
        row |= {
            "icc": found.icc, "icc_mean": found.icc_mean, "replicates": found.replicates,
            "replicate_lowest": found.lowest, "replicate_highest": found.highest,
            "note": joined(row["note"], found.note and f"replicates: {found.note}"),
        }  # fmt: skip
    return row


def chosen_controls(models: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return attributes and targets of models as controls: those that differ between the models.

    Args:
        models: with ``attr.*`` and ``target.*``.
        names: of attributes or targets; those that no model has are left out.
    """
    found = {}
    for name in dict.fromkeys(names):
        column = _column(models, name)
        if column is not None and models[column].nunique(dropna=True) > 1:
            found[name] = models[column].reset_index(drop=True)
    return pd.DataFrame(found)


def measured_controls(models: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Return the controls that are targets: these are measured, as a train loss, where attributes are given."""
    return [name for name in names if str(_column(models, name)).startswith("target.")]


def _column(models: pd.DataFrame, name: str) -> str | None:
    """Return the column of an attribute or target; None where no model has it."""
    return next((c for c in (name, f"attr.{name}", f"target.{name}") if c in models), None)


def held_out_radii(
    definitions: Sequence[Mapping[str, Any]], values: Array, targets: Mapping[str, Array], name: Namer, *, seed: int = 0
) -> pd.DataFrame:
    """Return one row for each definition with several radii, and target: a radius chosen on half, judged on the other.

    Args:
        definitions: rows with ``measure`` and ``spec.*``.
        values: their values over the models, (D, M).
        targets: name -> values, (M,).
        name: names definitions without their radius.
        seed: names the halves.

    Returns:
        ``chosen``: the radius chosen most often, in a ``share`` of the halves; ``tau``, ``low``, ``high`` on the halves
        that did not choose; ``best``: what choosing and judging on the same models reports, too high by ``optimism``.
    """
    by_name: dict[str, dict[float, Array]] = {}
    for row, column in zip(definitions, values, strict=True):
        rho = spec_fields(row).get("rho")
        if rho is not None:
            by_name.setdefault(name(row), {})[float(rho)] = column
    rows = []
    for definition, found in by_name.items():
        if len(found) > 1:
            radii = sorted(found)
            stack = np.stack([found[rho] for rho in radii])
            rows += [
                {"definition": definition, "target": target, **_held_out(t, stack, radii, seed)}
                for target, t in targets.items()
            ]
    return pd.DataFrame(rows, columns=RADII)


def _held_out(t: Array, stack: Array, radii: Sequence[float], seed: int) -> dict[str, Any]:
    # Infinite values have a rank; a model that lacks a radius is left out and counted.
    found = held_out_radius(t, stack, radii, seed=seed)
    chosen = max(found.chosen, key=lambda rho: found.chosen[rho], default=math.nan)
    return {
        "n": found.n, "chosen": chosen, "share": found.chosen.get(chosen, math.nan), "tau": found.tau, "low": found.low,
        "high": found.high, "best": found.best, "optimism": found.optimism, "note": found.note,
    }  # fmt: skip
