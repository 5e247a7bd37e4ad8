"""Names of definitions and targets, as tables, figures and texts write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from acutance.presentation import Presentation, presentation

# What settings that say how a value is estimated are usually called: a measure that nothing is known of, or that has no
# label, is not named by them.
USUAL_ESTIMATION = {
    "steps", "restarts", "start", "candidates", "draws", "mode", "ladder", "parameters", "norm_scale",
    "variance_reduction",
}  # fmt: skip


def definition_name(row: Mapping[str, Any]) -> str:
    """Return the name of a definition without its radius, as its measure's class writes it (``Traits.label``).

    A measure without a label is called by its name, with the settings in brackets that say what is estimated.

    Args:
        row: a row of a table, with ``measure`` and ``spec.*``; fields a measure does not have are missing.
    """
    fields, measure = spec_fields(row), str(row["measure"])
    presented = presentation(measure)
    place = f" on {fields.pop('points')}" if "points" in fields else ""
    if presented.label:
        return label_of(presented, fields) + place
    quiet = {"rho", *USUAL_ESTIMATION, *presented.estimation}
    rest = [f"{k}={v}" for k, v in fields.items() if k not in quiet]
    return (f"{measure} ({', '.join(rest)})" if rest else measure) + place


def label_of(presented: Presentation, fields: Mapping[str, Any]) -> str:
    """Return the label of a measure with the settings of a row, and what they add behind it."""
    words = {name: presented.words.get(name, {}).get(_shown(value), _shown(value)) for name, value in fields.items()}
    added = [
        filled(addition.template, words)
        for addition in presented.additions
        if addition.field in fields and not _is_default(fields[addition.field], addition.default)
    ]
    return " ".join(filled(presented.label, words).split()) + "".join(added)


def filled(template: str, words: Mapping[str, str]) -> str:
    """Return a template with words in place of its fields; nothing in place of one that there is no word for.

    >>> filled("{scaling} gradient norm {norm}", {"scaling": "adaptive"})
    'adaptive gradient norm '
    """
    return re.sub(r"\{(\w+)\}", lambda field: words.get(field[1], ""), template)


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(default, bool):
        return truth(value) == default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    return default is not None and as_text(value) == as_text(default)


def definition_label(row: Mapping[str, Any], name: Callable[[Mapping[str, Any]], str] = definition_name) -> str:
    """Return the name of a definition with its radius; a ``Namer`` tells those of one table apart."""
    return with_radius(name(row), row)


def with_radius(name: str, row: Mapping[str, Any]) -> str:
    """Return the name of a row's definition with the radius of the row; what is no number is shown as it stands."""
    rho = spec_fields(row).get("rho")
    if rho is None:
        return name
    with suppress(ValueError):
        rho = f"{float(rho):g}"
    return f"{name}, ρ = {rho}"


def target_label(target: str) -> str:
    """Return a target as tables and axes call it; a ``measure:`` is called as the measure itself.

    >>> target_label("measure:acme/roughness(window=3, rho=0.1)")
    'roughness (window=3), ρ = 0.1'
    """
    if not target.startswith("measure:"):
        return target
    name, _, settings = target.removeprefix("measure:").rstrip(")").partition("(")
    pairs = [pair.partition("=") for pair in settings.split(",") if pair.strip()]
    measure = name if presentation(name).label else name.rpartition("/")[2]
    row = {"measure": measure, **{f"spec.{field.strip()}": value.strip() for field, _, value in pairs}}
    return definition_label(row)


class Namer:
    """Names the definitions of a table so that no two of them share a name.

    A name is ``definition_name``; definitions that share it (they differ in how they are estimated, say) get the
    fields in which they differ behind it: ``, steps = 50``.

    Args:
        rows: rows of one table, or of several whose names must agree.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        sharing: dict[str, set[tuple[tuple[str, str], ...]]] = {}
        for row in rows:
            sharing.setdefault(definition_name(row), set()).add(_settings(row))
        self._telling = {name: _differing(group) for name, group in sharing.items()}

    def __call__(self, row: Mapping[str, Any]) -> str:
        """Return the name of the definition of a row, without its radius."""
        short = definition_name(row)
        telling = self._telling.get(short, ())
        return ", ".join([short, *(f"{field} = {value}" for field, value in _settings(row) if field in telling)])


def definition_key(row: Mapping[str, Any]) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return what tells definitions apart, the same for a row of any table, in any order of columns."""
    return str(row["measure"]), frozenset(_settings(row))


def _settings(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the fields that tell definitions apart, without the radius, as texts that survive a CSV file."""
    return tuple((field, _shown(value)) for field, value in spec_fields(row).items() if field != "rho")


def as_text(value: Any) -> str:
    """Return a setting as a text that is the same before and after a CSV file; empty for a missing one.

    >>> as_text(1.0), as_text(True), as_text("False"), as_text("2e-5"), as_text(None)
    ('1', 'true', 'false', '2e-05', '')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    return _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)


def _differing(group: set[tuple[tuple[str, str], ...]]) -> set[str]:
    """Return the fields that are not the same in all settings of a group; a missing field is a value too."""
    first, *others = (set(settings) for settings in group)
    return {field for field, _ in first.union(*others) - first.intersection(*others)}


def spec_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the spec that the row's measure has."""
    fields = {str(k).removeprefix("spec."): v for k, v in row.items() if str(k).startswith("spec.")}
    return {k: v for k, v in fields.items() if v is not None and v == v and v != ""}


def truth(value: Any) -> bool:
    """Return a boolean that may have been through a CSV file."""
    return value in (True, 1, 1.0, "True", "true", "1")
