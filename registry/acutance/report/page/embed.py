"""What the scripts of the page draw from: one block of JSON that no name can break out of."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from acutance.analysis.judging import holds
from acutance.analysis.labels import target_label
from acutance.report.data import ReportData, column, target_values, text
from acutance.report.scales import is_logarithmic, target_scale
from acutance.report.style import (
    CATEGORIES,
    GLYPHS,
    colour_attributes,
    is_category,
    marker_attributes,
    marker_labels,
)

DIGITS = 6  # of a value; far more than a picture shows
STOPS = 17  # of the colour scale; linear between them
ALWAYS = ("pool", "architecture", "train_set")  # attributes that every model has


def script_json(value: Any) -> str:
    """Return JSON for a ``<script type="application/json">``: nothing in it is read as markup, or ends a line.

    Every character beyond ASCII is escaped, U+2028 among them, and so are ``<``, ``>`` and ``&``.
    """
    plain = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return plain


def study_data(data: ReportData) -> dict[str, Any]:
    """Return models, attributes, targets, values and correlations; only admitted models are in it.

    Correlations are those of the table: the scripts compute none.
    """
    models = data.models[data.models["admitted"].astype(bool)]
    place = {str(name): i for i, name in enumerate(models["model"])}
    attributes = _attributes(data, models)
    markers = marker_attributes(data)
    return {
        "models": list(place),
        "attributes": attributes,
        "targets": [
            {
                "name": target_label(t).removeprefix("attr:").replace("_", " "),
                "values": _list(target_values(models, t)),
                "attribute": t.removeprefix("attr:") if t.startswith("attr:") else "",
            }
            for t in data.targets
        ],
        "definitions": [_definition(data, models, name) for name in data.definitions],
        "levels": [_level(data, level, place) for level in data.levels],
        "colour": _index(attributes, ", ".join(colour_attributes(data))),
        "marker": _index(attributes, ", ".join(markers)),
        "size": _index(attributes, str(data.figures.get("size"))),
        "groups": ", ".join(data.groups),
        "viridis": [to_hex(colormaps["viridis"](i / (STOPS - 1))) for i in range(STOPS)],
        "categories": list(CATEGORIES),
        "glyphs": list(GLYPHS),
    }


def _definition(data: ReportData, models: pd.DataFrame, name: str) -> dict[str, Any]:
    """One definition: its values and their standard errors, one list a radius, in the order of the models."""
    radii = data.radii(name)
    columns = [data.values(name, rho).reindex(models["model"]) for rho in radii]
    errors = [_list(column["stderr"], 3) for column in columns]
    return {
        "name": name,
        "symbol": data.symbol(name),
        "radii": radii,
        "values": [_list(column["value"]) for column in columns],
        "errors": [bars if any(e is not None for e in bars) else None for bars in errors],
    }


def _level(data: ReportData, level: str, place: dict[str, int]) -> dict[str, Any]:
    """The models of a level, how its axes are scaled, and its correlations.

    A correlation is [definition, radius, target, tau, low, high, adjusted p, n, {group: tau}, ceiling, whether it
    holds], by index.
    """
    models = data.members(level)
    targets = [target_values(models, t) for t in data.targets]
    logarithmic = [
        [is_logarithmic(data.values(d, rho).reindex(models["model"])["value"].dropna()) for rho in data.radii(d)]
        for d in data.definitions
    ]
    rows = data.named[data.named["within"] == level]
    groups = [g for g in dict.fromkeys(rows["group"]) if g != "all"]
    of_whole: dict[tuple[int, int, int], list[Any]] = {}
    of_group: dict[tuple[int, int, int], dict[str, float | str | None]] = {}
    definitions = {name: (i, data.radii(name)) for i, name in enumerate(data.definitions)}
    for row in rows.to_dict("records"):
        i, radii = definitions[row["definition"]]
        rho = row.get("spec.rho", np.nan)
        key = (i, _nearest(radii, rho), data.targets.index(row["target"]))
        if row["group"] == "all":
            ceiling = _number(row.get("ceiling", np.nan), 3)
            numbers = [_number(row[c], 4) for c in ("tau", "low", "high", "p_adjusted")]
            of_whole[key] = [*key, *numbers, int(row["n"]), of_group.setdefault(key, {}), ceiling, holds(row)]
        elif np.isfinite(row["tau"]):
            of_group.setdefault(key, {})[str(groups.index(row["group"]))] = _number(row["tau"], 4)
    return {
        "name": level.replace("architecture=", ""),
        "members": [place[str(m)] for m in models["model"]],
        "scales": [target_scale(t, v.dropna()) for t, v in zip(data.targets, targets, strict=True)],
        "logarithmic": logarithmic,
        "groups": [str(g) for g in groups],
        "correlations": list(of_whole.values()),
    }


def _nearest(radii: list[float | None], rho: float) -> int:
    if radii == [None]:
        return 0
    return int(np.argmin([abs(float(r or 0) - rho) for r in radii]))


def _attributes(data: ReportData, models: pd.DataFrame) -> list[dict[str, Any]]:
    """Every attribute, numeric ones as numbers and the others as indices of their labels, and what forms markers."""
    names = [c.removeprefix("attr.") for c in models.columns if c.startswith("attr.")]
    names += [name for name in ALWAYS if name not in names and name in models and models[name].nunique() > 1]
    attributes = []
    for name in names:
        values = models[column(models, name)]
        if is_category(values) or (name in data.groups and not data.figures.get("colour")):
            attributes.append(_category(name, ["" if pd.isna(v) else text(v) for v in values]))
        else:
            attributes.append({"name": name, "values": _list(pd.to_numeric(values, errors="coerce"))})
    several = {", ".join(data.groups): data.group_of(models)} if len(data.groups) > 1 else {}
    if len(wanted := marker_attributes(data)) > 1:
        several[", ".join(wanted)] = marker_labels(data, models)
    return attributes + [_category(name, list(labels)) | {"combined": True} for name, labels in several.items()]


def _category(name: str, labels: list[str]) -> dict[str, Any]:
    distinct = sorted(set(labels))
    codes = {label: i for i, label in enumerate(distinct)}
    return {"name": name, "labels": distinct, "values": [codes[label] for label in labels]}


def _index(attributes: list[dict[str, Any]], name: str) -> int:
    """The place of an attribute; -1 for one that no model has."""
    return next((i for i, attribute in enumerate(attributes) if attribute["name"] == name), -1)


def _list(values: pd.Series, digits: int = DIGITS) -> list[float | str | None]:
    return [_number(v, digits) for v in values.to_numpy(float)]


def _number(value: float, digits: int = DIGITS) -> float | str | None:
    """Return a number for JSON: None for a missing one, a text for an infinite one."""
    if np.isnan(value):
        return None
    if np.isinf(value):
        return "inf" if value > 0 else "-inf"
    return float(f"{value:.{digits}g}")
