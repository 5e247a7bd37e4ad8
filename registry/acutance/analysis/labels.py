"""Names of definitions as the paper writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEASURES = {"average_case": "avg-case", "worst_case": "worst-case"}
NORMS = {"l2": "ℓ2", "linf": "ℓ∞"}
# Fields that say how a value is estimated, not what is estimated.
ESTIMATION = {
    "steps",
    "restarts",
    "start",
    "candidates",
    "draws",
    "mode",
    "ladder",
    "parameters",
    "norm_scale",
    "variance_reduction",
}


def definition_name(row: Mapping[str, Any]) -> str:
    """Return the name of a definition without its radius, e.g. ``adaptive worst-case ℓ∞, logit-norm``.

    Args:
        row: a row of a table, with ``measure`` and ``spec.*``; fields a measure does not have are missing.
    """
    fields = spec_fields(row)
    measure = str(row["measure"])
    if measure not in MEASURES:
        rest = [f"{k}={v}" for k, v in fields.items() if k != "rho" and k not in ESTIMATION]
        return f"{measure} ({', '.join(rest)})" if rest else measure
    scaling = {"none": "standard", "elementwise": "adaptive"}.get(
        str(fields.get("scaling")), str(fields.get("scaling"))
    )
    name = f"{scaling} {MEASURES[measure]} {NORMS.get(str(fields.get('norm')), '')}".strip()
    if fields.get("parameters", "all") != "all":
        name += f" [{fields['parameters']}]"
    if truth(fields.get("logit_norm")):
        name += ", logit-norm" + (" (released scale)" if fields.get("norm_scale") == "released" else "")
    if fields.get("mode") == "released":
        name += ", released"
    if "ladder" in fields:
        name += f", ladder {fields['ladder']}"
    return name


def definition_label(row: Mapping[str, Any]) -> str:
    """Return the name of a definition with its radius."""
    rho = spec_fields(row).get("rho")
    return definition_name(row) + (f", ρ = {float(rho):g}" if rho is not None else "")


def spec_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that the row's measure has."""
    fields = {str(k).removeprefix("spec."): v for k, v in row.items() if str(k).startswith("spec.")}
    return {k: v for k, v in fields.items() if v is not None and v == v and v != ""}


def truth(value: Any) -> bool:
    """Return a boolean that may have been through a CSV file."""
    return value in (True, 1, 1.0, "True", "true", "1")
