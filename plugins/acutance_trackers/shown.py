"""What a tracker shows of a row: its run and step, numbers by name, and a text where there is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acutance.plugins import catalog
from acutance.pool import Attribute

SPEC, ATTRIBUTE = "spec.", "attr."
OWN = ("run", "step")  # attributes that say which row it is


@dataclass(frozen=True)
class Shown:
    """One row, as trackers show it.

    Attributes:
        run: a training; in a study a model.
        step: of the training; None in a study.
        metric: name of what was measured, ``MEASURE(setting=value,...)``.
        numbers: by name: ``METRIC/value``, ``METRIC/stderr``, and of a training's step what was logged with it.
        texts: by name: ``METRIC/status``, where something else than ``ok`` came out.
        facts: what is known of the run itself: attributes of a model, texts that name a training.
    """

    run: str
    step: int | None
    metric: str
    numbers: Mapping[str, float]
    texts: Mapping[str, str]
    facts: Mapping[str, Attribute]


def shown(row: Mapping[str, Any]) -> Shown:
    """Return what a tracker shows of a row."""
    step = row.get("step")
    metric = metric_name(row)
    numbers = {f"{metric}/{part}": float(row[part]) for part in ("value", "stderr") if _is_number(row.get(part))}
    if f"{metric}/value" not in numbers:
        numbers = {}
    attributes = {name: value for name, value in prefixed(row, ATTRIBUTE).items() if value is not None}
    facts = {name: value for name, value in attributes.items() if step is None or name not in OWN}
    if step is not None:
        numbers |= {f"training/{name}": float(value) for name, value in facts.items() if _is_number(value)}
        facts = {name: value for name, value in facts.items() if isinstance(value, bool | str)}
    status, message = str(row["status"]), str(row.get("message") or "")
    told = {} if status == "ok" else {f"{metric}/status": f"{status}: {message}".removesuffix(": ")}
    name = str(row["model"] if step is None else row.get(f"{ATTRIBUTE}run", row["model"]))
    return Shown(name, step, metric, numbers, told, facts)


def metric_name(row: Mapping[str, Any]) -> str:
    """Return ``MEASURE(setting=value,...)``: the settings that are not the measure's defaults, split and repetition.

    The name depends on the row alone, so a definition has the same one in every run. The split is named where it is not
    ``train``.
    """
    defaults = _defaults(str(row["measure"]))
    parts = {name: value for name, value in prefixed(row, SPEC).items() if not _same(value, defaults.get(name, ...))}
    if row.get("split") not in ("", None, "train"):
        parts["split"] = row["split"]
    if row.get("replicate"):
        parts["replicate"] = row["replicate"]
    inside = ",".join(f"{name}={plain(value)}" for name, value in parts.items())
    return f"{row['measure']}({inside})" if inside else str(row["measure"])


def prefixed(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return what a row has under names with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def plain(value: Any) -> str:
    """Return a setting as a name has it: 1.0 is 1."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _defaults(measure: str) -> dict[str, Any]:
    """Return the defaults of a measure's settings as rows have them; nothing of a measure that is not there."""
    item = catalog().lookup("measures", measure)
    if item is None:
        return {}
    fields = item.target.Spec.model_fields.items()
    return {name: _cell(field.default) for name, field in fields if not field.is_required()}


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _same(value: Any, default: Any) -> bool:
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
