"""The paragraph of a paper that says what was done, from the configuration and the tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from acutance.analysis.judging import counted
from acutance.analysis.labels import spec_fields, target_label
from acutance.analysis.machinery.columns import MIN_MODELS
from acutance.analysis.workload import FULL, reduced, resamples_of
from acutance.report.data import ReportData, text
from acutance.report.page.markup import SIGNS
from acutance.report.page.sections import methods_sentences

LATEX = SIGNS | {
    "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", '"': r"\textquotedbl{}", "–": "--",
}  # fmt: skip
INFINITE = {
    "rank_max": "infinite values rank highest", "drop": "models with infinite values were left out",
    "refuse": "all values were finite",
}  # fmt: skip
LISTED = 12  # values of a setting that are written out


def methods(data: ReportData, faults: list[str] | None = None) -> str:
    """Return the methods paragraph in plain words: models, surface, measures with settings, statistics, versions.

    Args:
        data: all of a run.
        faults: gets a sentence for each statistic that fails to say its part.
    """
    statistics = _statistics(data, [] if faults is None else faults)
    return " ".join([*_models(data), *_surface(data), *_measures(data), *statistics, *_versions(data)])


def latex(paragraph: str) -> str:
    """Return a text for LaTeX: what it would read as commands is escaped, Greek letters and signs are mathematics."""
    words = " ".join(paragraph.split())
    # The one index that the paragraph has; another underscore is part of a name.
    parts = re.split(r"τ_([abc])\b", words)
    plain = ["".join(LATEX.get(sign, sign) for sign in part) for part in parts[::2]]
    return plain[0] + "".join(rf"$\tau_{index}${after}" for index, after in zip(parts[1::2], plain[1:], strict=True))


def _models(data: ReportData) -> Iterable[str]:
    admitted = data.models[data.models["admitted"].astype(bool)]
    pools = _counts(admitted["pool"]) or "no pool"
    yield f"We compared {len(admitted)} models ({pools})."
    if left_out := len(data.models) - len(admitted):
        rules = "; ".join(_rule(name, bounds) for name, bounds in (data.config.get("admit") or {}).items())
        why = f" (admitted: {rules})" if rules else ""
        yield f"{left_out} of {len(data.models)} {'was' if left_out == 1 else 'were'} left out beforehand{why}."


def _rule(name: str, bounds: Any) -> str:
    """``train_error ≤ 0.01``, or a rule that is not a pair of bounds as it is written."""
    if not isinstance(bounds, dict):
        return f"{name} {bounds}"
    low, high = bounds.get("min"), bounds.get("max")
    parts = [f"{name} ≥ {low:g}"] if low is not None else []
    return " and ".join([*parts, *([f"{name} ≤ {high:g}"] if high is not None else [])])


def _surface(data: ReportData) -> Iterable[str]:
    s = data.config.get("surface") or {}
    if not s:
        return
    batches = f"in m-batches of m = {s['m']}" if s.get("m") is not None else "at once"
    details = [
        f"{name.replace('_', ' ')}: {_shown(s[name])}"
        for name in ("select", "batches", "augment", "loss", "dtype", "batch_norm", "parameters")
        if s.get(name) is not None
    ]
    text = f"Measures were taken on {s.get('points', '?')} points of the {s.get('split', 'train')} split {batches}"
    yield text + (f" ({'; '.join(details)})." if details else ".")


def _measures(data: ReportData) -> Iterable[str]:
    """One clause a measure and norm, with every setting; a clause lists all values that the study has."""
    table = data.measured
    if not len(table):
        return
    different = table[["measure", *(c for c in table.columns if c.startswith("spec."))]].drop_duplicates()
    settings_of: dict[tuple[str, str | None], dict[str, list[str]]] = {}
    for row in different.to_dict("records"):
        fields = spec_fields({str(key): value for key, value in row.items()})
        settings = settings_of.setdefault((str(row["measure"]), fields.get("norm")), {})
        for name, value in fields.items():
            settings.setdefault(name, []).append(_shown(value))
    clauses = []
    for (measure, _), settings in settings_of.items():
        listed = [f"{'ρ' if name == 'rho' else name} = {_listed(values)}" for name, values in settings.items()]
        clauses.append(f"{measure} ({'; '.join(listed)})" if listed else measure)
    replicates = int(table["replicate"].nunique()) if "replicate" in table else 1
    yield f"We computed {len(data.definitions)} definitions: {'; '.join(clauses)}."
    if replicates > 1:
        yield f"Values are means over {replicates} replicates."


def _statistics(data: ReportData, faults: list[str]) -> Iterable[str]:
    t = data.named
    if not len(t):
        return
    resamples = resamples_of(data.config) or reduced(t["note"]) or FULL
    targets = ", ".join(map(_in_words, data.targets))
    within = data.config.get("within") or []
    levels = f", among models of the same {' and '.join(map(str, within))}" if within else ""
    groups = f", and within subgroups of equal {', '.join(data.groups)}" if data.groups else ""
    sizes = counted(t, data.targets).groupby("within").size()
    family = int(sizes.max()) if len(sizes) else 0
    apart = f"; {', '.join(map(_in_words, data.relations))}: a family apart" if data.relations else ""
    infinite = INFINITE[data.config.get("nonfinite", "rank_max")]
    variant = data.config.get("variant", "a")
    yield (
        f"Their association with {targets} is Kendall's τ_{variant}{levels}{groups}; {infinite}, and below "
        f"{MIN_MODELS} models none is given."
    )
    yield (
        f"Intervals are 95% BCa bootstrap intervals over models ({resamples} resamples). p-values come from "
        f"{resamples} permutations of the models; adjusted ones control the family-wise error over all definitions, "
        f"radii and targets (the largest |τ| under permutation, up to {family} comparisons{apart})."
    )
    yield from methods_sentences(data, faults)
    yield from _ceiling(data)


def _in_words(target: str) -> str:
    return target_label(target).removeprefix("attr:").replace("_", " ")


def _ceiling(data: ReportData) -> Iterable[str]:
    if "ceiling" in data.named and data.named["ceiling"].notna().any():
        yield (
            "The ceiling is the mean correlation that a measure ranking models by their true errors would show over "
            "simulated test sets of the same sizes; true errors are the measured ones shrunk by the sampling variance."
        )


def _versions(data: ReportData) -> Iterable[str]:
    libraries = data.environment.get("libraries") or {}
    names = [f"acutance {data.environment['acutance']}"] if "acutance" in data.environment else []
    names += [f"Python {data.environment['python']}"] if "python" in data.environment else []
    names += [f"{name} {libraries[name]}" for name in ("torch", "numpy", "scipy") if name in libraries]
    if "seed" in data.config:
        seeded = "points, noise, resamples" if data.config.get("surface") else "resamples"
        yield f"The seed of {seeded} and permutations is {data.config['seed']}."
    if names:
        yield f"Computed with {', '.join(names)}."


def _counts(pools: pd.Series) -> str:
    return ", ".join(f"{n} of {name}" for name, n in pools.value_counts(sort=False).items())


def _listed(values: list[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return (
        ", ".join(distinct)
        if len(distinct) <= LISTED
        else f"{', '.join(distinct[:LISTED])}, … ({len(distinct)} values)"
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else text(value)
