"""The correlations table: every definition against every target, within comparable models, pooled and by group."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from acutance.analysis.adjust import family_p
from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.decompose import decompose
from acutance.analysis.judging import families
from acutance.analysis.kendall import Nonfinite, Variant, kendall_tau
from acutance.analysis.machinery.columns import MIN_MODELS, Array, joined
from acutance.analysis.multiplicity import false_discovery
from acutance.errors import UserError, did_you_mean

COLUMNS = ["target", "within", "group", "n", "tau", "low", "high", "p", "p_adjusted", "note",
           "p_fdr", "tau_within", "tau_between", "simpson", "ceiling"]  # fmt: skip


def correlations(
    models: pd.DataFrame,
    results: pd.DataFrame,
    *,
    targets: Sequence[str],
    groups: Sequence[str] = (),
    within: Sequence[str] = (),
    variant: Variant = "a",
    nonfinite: Nonfinite = "refuse",
    points: Mapping[str, int] | None = None,
    resamples: int = 9999,
    permutations: int = 9999,
    seed: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """Return one row for each definition, target, level of ``within`` and group.

    Only admitted models are compared. Values of replicates are averaged. A model whose cell is unsupported or
    failed is missing from that definition; ``n`` counts those that are there and ``note`` says what is missing.
    ``p_adjusted`` controls the family-wise error over all definitions and all targets that count
    (``judging.outcomes``: errors, losses and gaps) of one level and group, ``p_fdr`` the false discovery rate; the
    other targets are a family of their own. With groups, ``tau_within`` and ``tau_between`` are the parts of tau over
    pairs inside a group and of two; ``simpson`` says that tau and ``tau_within`` have opposite signs. ``ceiling`` is
    the tau that a perfect measure is expected to show for these models, test points, and replicates of this definition.

    Args:
        models: columns ``model``, ``architecture``, ``train_set``, ``pool``, ``admitted``, ``attr.*``, ``target.*``.
        results: columns ``model``, ``measure``, ``spec.*``, ``value``, ``status``; ``replicate`` when there are some.
        targets: names of targets; ``attr:name`` uses an attribute. A ``measure:`` is not compared with itself.
        groups: attributes whose combinations form subgroups.
        within: columns whose levels are kept apart: architecture, train_set, pool or attributes.
        variant: of Kendall's tau.
        nonfinite: policy for infinite values, as in ``kendall_tau``.
        points: test points of the targets that are errors counted on a test set; others have no ceiling.
        resamples: for the interval.
        permutations: for the p-values.
        seed: names resamples and permutations.
        done: told of each row.

    Raises:
        UserError: for a column that is not there.
    """
    admitted = admitted_models(models)
    if not len(admitted):
        return pd.DataFrame(columns=["measure", *(c for c in results.columns if c.startswith("spec.")), *COLUMNS])
    if not admitted.index.is_unique:
        raise UserError("models: two models have the same name", "give every model its own")
    fields = [c for c in results.columns if c.startswith("spec.")]
    definitions, values = definitions_and_values(results, fields, list(admitted.index))
    columns = {name: target_values(admitted, name) for name in targets}
    noise = replicates(results, fields, list(admitted.index))
    rows: list[dict[str, Any]] = []
    labels = group_labels(admitted, groups) if groups else None
    for level, in_level in levels(admitted, within):
        for group, in_group in _groups(admitted, groups):
            chosen = in_level & in_group
            if not chosen.any() or not len(definitions):
                continue
            t = np.stack([columns[name][chosen] for name in targets])
            s = values[:, chosen]
            itself = np.array([[_identical(name, a, b) for b in s] for name, a in zip(targets, t, strict=True)])
            plain, adjusted = np.full((2, *itself.shape), np.nan)
            for family in families(targets) if chosen.sum() >= MIN_MODELS else ():
                plain[family], adjusted[family] = family_p(t[family], s, permutations, seed, itself[family])
            strata = None if labels is None or group != "all" else labels[chosen]
            chosen_noise = [None if repeated is None else repeated[chosen] for repeated in noise]
            ceilings = _ceilings(t, [(points or {}).get(name) for name in targets], chosen_noise, seed)
            first = len(rows)
            for d, definition in enumerate(definitions):
                for k, name in enumerate(targets):
                    estimate = (
                        _no_estimate(int(np.isfinite(t[k]).sum()), "the target itself")
                        if itself[k, d]
                        else _one(t[k], s[d], variant, nonfinite, resamples, permutations, seed, plain[k, d])
                    )
                    done(1)
                    p_adjusted = adjusted[k, d] if np.isfinite(estimate["tau"]) else np.nan
                    rows.append(
                        {
                            **definition,
                            "target": name,
                            "within": level,
                            "group": group,
                            **estimate,
                            "p_adjusted": p_adjusted,
                            **_parts(t[k], s[d], strata, estimate["tau"]),
                            "ceiling": ceilings[k][d],
                        }
                    )
            for family in families(targets):
                of_family = [row for i, row in enumerate(rows[first:]) if i % len(targets) in family]
                for row, p_fdr in zip(of_family, false_discovery([row["p"] for row in of_family]), strict=True):
                    row["p_fdr"] = p_fdr
    return pd.DataFrame(rows, columns=["measure", *fields, *COLUMNS])


def admitted_models(models: pd.DataFrame) -> pd.DataFrame:
    """Return the models that are compared, by name; none where none could be used."""
    if "admitted" not in models:
        return pd.DataFrame(index=pd.Index([], name="model"))
    return models[models["admitted"].astype(bool)].set_index("model")


def _ceilings(t: Array, points: Sequence[int | None], noise: Sequence[Array | None], seed: int) -> list[list[float]]:
    """Return the ceiling of each target and definition, (T, D); the same for all definitions without replicates."""
    ceilings = []
    for column, count in zip(t, points, strict=True):
        if count is None:
            ceilings.append([math.nan] * len(noise))
            continue
        plain = noise_ceiling(column, count, seed=seed).tau
        ceilings.append([plain if r is None else noise_ceiling(column, count, r, seed=seed).tau for r in noise])
    return ceilings


def definitions_and_values(
    results: pd.DataFrame, fields: list[str], index: list[str]
) -> tuple[list[dict[str, Any]], Array]:
    """Return the definitions, and their values over the models, (D, n), NaN where there is none.

    Values of replicates are averaged. A definition without a single value is listed too: its rows say so.
    """
    codes, first = definition_codes(results, fields)
    plain = results.iloc[first][["measure", *fields]].astype(object) if len(first) else pd.DataFrame()
    values = np.full((len(first), len(index)), np.nan)
    if len(first):
        place = pd.Index(index).get_indexer(pd.Index(results["model"]))
        usable = _usable(results) & (place >= 0)
        cells = pd.DataFrame(
            {"code": codes[usable], "place": place[usable], "value": results["value"].to_numpy()[usable]}
        )
        means = cells.groupby(["code", "place"], sort=False)["value"].mean()
        values[means.index.get_level_values(0), means.index.get_level_values(1)] = means.to_numpy(np.float64)
    return plain.to_dict("records"), values


def replicates(results: pd.DataFrame, fields: list[str], index: list[str]) -> list[Array | None]:
    """Return the values of each definition's replicates over the models, (n, R); None where it has one at most."""
    codes, first = definition_codes(results, fields)
    repeated: list[Array | None] = [None] * len(first)
    if "replicate" not in results or not len(first):
        return repeated
    usable = results.assign(code=codes)[_usable(results)]
    several = usable.groupby("code")["replicate"].nunique() > 1
    for code, part in usable[usable["code"].isin(several.index[several])].groupby("code"):
        table = part.pivot_table(index="model", columns="replicate", values="value", aggfunc="mean")
        repeated[int(cast(int, code))] = table.reindex(index).to_numpy(np.float64)
    return repeated


def definition_codes(results: pd.DataFrame, fields: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each row's definition, in order of appearance, and the first row of each definition."""
    if not len(results):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    codes = results.groupby(["measure", *fields], dropna=False, sort=False).ngroup().to_numpy(np.int64)
    return codes, np.unique(codes, return_index=True)[1].astype(np.int64)


def _usable(results: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows have a value."""
    has_value = results["status"].isin(["ok", "not_converged", "nonfinite"]) & results["value"].notna()
    usable: NDArray[np.bool_] = has_value.to_numpy(bool)
    return usable


def _column(models: pd.DataFrame, name: str, option: str) -> pd.Series:
    for candidate in (name, f"attr.{name}"):
        if candidate in models.columns:
            return models[candidate]
    available = [c.removeprefix("attr.") for c in models.columns]
    raise UserError(f"{option}: no model has '{name}'", did_you_mean(name, available))


def target_values(models: pd.DataFrame, name: str) -> Array:
    """Return a target's values over the models, NaN where there is none."""
    column = f"attr.{name[5:]}" if name.startswith("attr:") else f"target.{name}"
    if column not in models.columns:
        available = [c.removeprefix("target.").replace("attr.", "attr:") for c in models.columns if "." in c]
        raise UserError(f"targets: no model has '{name}'", did_you_mean(name, available))
    values: Array = pd.to_numeric(models[column], errors="coerce").to_numpy(np.float64)
    return values


def levels(models: pd.DataFrame, within: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield (``architecture=x;train_set=y``, members) for every combination there is; ``all`` without any."""
    yield from _combinations(models, within, "within") if within else [("all", np.ones(len(models), bool))]


def _groups(models: pd.DataFrame, groups: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "all", np.ones(len(models), bool)
    if groups:
        yield from _combinations(models, groups, "groups")


def group_labels(
    models: pd.DataFrame, names: Sequence[str], option: str = "groups", between: str = ";"
) -> NDArray[np.str_]:
    """Return ``augment=1;mixup=0`` for every model, (n,): what a group is called, never taken apart again.

    A column ``label.augment`` says how the values of ``augment`` are spelt where that is not how they are printed.
    Combinations that would be called the same, since values hold the signs between them, have their values in quotes.

    Raises:
        UserError: for a column that is not there.
    """
    texts = [
        models[f"label.{name}"].map(str) if f"label.{name}" in models else _column(models, name, option).map(label_text)
        for name in names
    ]
    rows = list(zip(*texts, strict=True))
    called = {row: between.join(f"{n}={v}" for n, v in zip(names, row, strict=True)) for row in dict.fromkeys(rows)}
    if len(set(called.values())) < len(called):
        quoted = {row: [json.dumps(value, ensure_ascii=False) for value in row] for row in called}
        called = {row: between.join(f"{n}={v}" for n, v in zip(names, quoted[row], strict=True)) for row in called}
    return np.array([called[row] for row in rows], dtype=np.str_)


def _combinations(models: pd.DataFrame, names: Sequence[str], option: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    labels = group_labels(models, names, option)
    for label in sorted(set(labels.tolist())):
        yield label, labels == label


def label_text(value: Any) -> str:
    """Return a value as labels spell it: booleans as 0/1, also after a CSV file; whole floats without their point."""
    if value is True or value == "True":
        return "1"
    if value is False or value == "False":
        return "0"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parts(t: Array, s: Array, strata: NDArray[np.str_] | None, tau: float) -> dict[str, Any]:
    """Return tau over pairs of models inside a group and over pairs of two, and whether the groups turn its sign."""
    if strata is None or not np.isfinite(tau):
        return {"tau_within": np.nan, "tau_between": np.nan, "simpson": None}
    parts = decompose(t, s, strata)
    return {"tau_within": parts.within, "tau_between": parts.between, "simpson": parts.simpson}


def _identical(name: str, a: Array, b: Array) -> bool:
    """Whether a target that is one of the measures is this one: the same number for every model that has both."""
    if not name.startswith("measure:"):
        return False
    both = ~(np.isnan(a) | np.isnan(b))
    return bool(both.any() and np.array_equal(a[both], b[both]))


def _no_estimate(n: int, note: str) -> dict[str, Any]:
    return {"n": n, "tau": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "note": note}


def _one(
    t: Array, s: Array, variant: Variant, nonfinite: Nonfinite, resamples: int, permutations: int, seed: int, p: float
) -> dict[str, Any]:
    """Return n, tau, interval, p and note of one pair of columns; p is known from the family's permutations."""
    there = ~(np.isnan(t) | np.isnan(s))
    n, missing = int(there.sum()), int((~there).sum())
    note = f"{missing} models have no value" if missing else ""
    if n < MIN_MODELS:
        return _no_estimate(n, joined(note, f"fewer than {MIN_MODELS} models"))
    # Models that are dropped here take part in the family's permutations, so this pair has its own.
    own_permutations = permutations if nonfinite == "drop" else 0
    estimate = kendall_tau(
        t[there], s[there], variant, nonfinite=nonfinite, resamples=resamples, permutations=own_permutations, seed=seed
    )
    note = joined(note, estimate.note)
    return {
        "n": estimate.n,
        "tau": estimate.tau,
        "low": estimate.low,
        "high": estimate.high,
        "p": estimate.p if own_permutations else p,
        "note": note,
    }
