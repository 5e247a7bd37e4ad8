"""The measures that rank: those that see no labels and say which of their values promise a lower error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acutance.analysis.labels import Namer, definition_label
from acutance.errors import UserError, did_you_mean
from acutance.measure import Measure, Need
from acutance.plugins import Item, catalog
from acutance.spec import validate

READ: frozenset[Need] = frozenset({"unlabeled", "activations", "validation", "peers"})


@dataclass(frozen=True)
class Ranker:
    """A measure at its settings.

    Attributes:
        item: of the catalog.
        instance: of its class.
        spec: the settings.
        needs: what it reads at these settings.
        label: what tables call it.
    """

    item: Item
    instance: Measure[Any]
    spec: Any
    needs: frozenset[Need]
    label: str

    @property
    def larger_is_better(self) -> bool:
        """Whether larger values promise a lower error."""
        return bool(self.instance.traits.better == "larger")

    @property
    def estimates(self) -> bool:
        """Whether its values are estimates of the error."""
        return bool(self.instance.traits.estimates == "error")

    @property
    def compares(self) -> bool:
        """Whether it compares the models with each other."""
        return "peers" in self.needs


def chosen(
    names: Sequence[str | Mapping[str, Any]] | None, fields: Mapping[str, Any], validation: bool
) -> tuple[list[Ranker], list[str]]:
    """Return the measures that take part, and what is to be said of others.

    Args:
        names: of measures, or mappings with ``name`` and settings; all that can be asked by default.
        fields: settings, each of those measures that have them.
        validation: whether there are labelled points.

    Raises:
        UserError: for a measure that cannot take part, a setting that none has, and no measure at all.
    """
    notes: list[str] = []
    asked = _all(validation, notes) if names is None else [_named(name) for name in names]
    _require_fields(fields, [item for item, _ in asked])
    found: list[tuple[Item, Measure[Any], Any, frozenset[Need]]] = []
    for item, own in asked:
        given = {key: value for key, value in fields.items() if key in item.target.Spec.model_fields}
        spec, instance = validate(item.target.Spec, {**given, **own}, item.name), item.target()
        needs = frozenset(instance.needs(spec))
        if names is not None:
            _refuse(item.name, instance, needs, validation)
        if all((item.id, spec) != (other.id, known) for other, _, known, _ in found):
            found.append((item, instance, spec, needs))
    if not found:
        raise UserError(
            "no measure without labels applies", "install a plugin with some: acutance list measures has the names"
        )
    rows = [{"measure": item.id, **{f"spec.{k}": v for k, v in spec.full().items()}} for item, _, spec, _ in found]
    name_of = Namer(rows)
    labels = [
        definition_label(row, name_of).removeprefix("" if item.target.traits.label else f"{item.dist}/")
        for row, (item, *_) in zip(rows, found, strict=True)
    ]
    return [Ranker(*parts, label) for parts, label in zip(found, labels, strict=True)], notes


def _all(validation: bool, notes: list[str]) -> list[tuple[Item, dict[str, Any]]]:
    """Return all measures that can be asked without settings."""
    found: list[tuple[Item, dict[str, Any]]] = []
    without: list[str] = []
    for item in catalog().usable("measures"):
        target = item.target
        if not target.traits.better or any(info.is_required() for info in target.Spec.model_fields.values()):
            continue
        needs = target().needs(target.Spec())
        if "unlabeled" not in needs or not needs <= READ:
            continue
        if "validation" in needs and not validation:
            without.append(item.name)
        else:
            found.append((item, {}))
    if without:
        notes.append(f"left out, since they need labelled points (--labels) beside these: {', '.join(without)}")
    return found


def _named(name: str | Mapping[str, Any]) -> tuple[Item, dict[str, Any]]:
    own = dict(name) if isinstance(name, Mapping) else {"name": name}
    if not isinstance(short := own.pop("name", None), str):
        raise UserError(f"measures: got {name!r}", "give names, or {'name': NAME, setting: value}")
    return catalog().find("measures", short), own


def _require_fields(fields: Mapping[str, Any], items: Sequence[Item]) -> None:
    known = sorted({field for item in items for field in item.target.Spec.model_fields})
    for field in fields:
        if field not in known:
            raise UserError(f"--set {field}: none of the measures has this setting", did_you_mean(field, known))


def _refuse(name: str, instance: Measure[Any], needs: frozenset[Need], validation: bool) -> None:
    if "unlabeled" not in needs:
        raise UserError(
            f"measure '{name}' needs labels or weights, and models are ranked by points without labels",
            "acutance measure and acutance run evaluate it; acutance list measures has others",
        )
    if not instance.traits.better:
        raise UserError(
            f"measure '{name}' does not say whether larger or smaller values promise a lower error",
            "write better='larger' or 'smaller' in its Traits",
        )
    if more := sorted(needs - READ):
        raise UserError(
            f"measure '{name}' needs {', '.join(more)}, and models are ranked by their outputs and features alone",
            "acutance run evaluates it",
        )
    if "validation" in needs and not validation:
        raise UserError(f"measure '{name}' needs labelled points beside the ranked ones", "give them with --labels")
