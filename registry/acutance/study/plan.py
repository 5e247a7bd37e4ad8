"""Sweeps: a list given for a scalar field of a measure is an axis; the product of the axes becomes specs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import ValidationError

from acutance.errors import UserError, did_you_mean
from acutance.measure import WITHOUT_POINTS
from acutance.own_code import is_own, source_digest
from acutance.plugins import Catalog, Item
from acutance.spec import MOST, Spec, canonical_json, describe, shown
from acutance.study.surface_config import Scope

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class PlannedMeasure:
    """One measure with one setting of all its fields, and one repetition.

    Attributes:
        item: the measure.
        spec: its settings.
        replicate: index of the repetition.
        points: split that its points are from; empty for that of the study's surface.
    """

    item: Item
    spec: Spec
    replicate: int = 0
    points: str = ""

    @property
    def level(self) -> str:
        """Whether it is evaluated per m-batch, on all points, without data, or on all models together."""
        return str(self.item.target.level_of(self.spec))

    @property
    def scope(self) -> Scope:
        """The points that it is evaluated on; models are compared on all points, or by their weights alone."""
        if self.level == "pool":
            return "weights" if self.item.target().needs(self.spec) <= WITHOUT_POINTS else "points"
        scopes: dict[str, Scope] = {"batch": "batch", "dataset": "points", "weights": "weights"}
        return scopes[self.level]

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it apart from the same measure with other settings: all fields, and the points of its own."""
        return self.spec.full() | ({"points": self.points} if self.points else {})


def expand_measures(
    sections: Sequence[Mapping[str, Any]], plugins: Catalog, splits: tuple[str, ...] | None = None, split: str = ""
) -> tuple[list[PlannedMeasure], list[str], list[str]]:
    """Return all planned measures of a config, without repeats, with the mistakes met and hints for them.

    Args:
        sections: as written.
        plugins: what is installed.
        splits: of the dataset; None where it is not known.
        split: that of the study's surface.
    """
    planned: dict[tuple[str, str, int, str], PlannedMeasure] = {}
    mistakes: list[str] = []
    hints: list[str] = []
    for i, section in enumerate(sections):
        path = f"measures.{i}"
        settings = dict(section)
        name, replicates = settings.pop("name", None), settings.pop("replicates", 1)
        points = settings.pop("points", split)
        if not isinstance(name, str):
            mistakes.append(f"{path}.name: give the name of a measure")
            continue
        try:
            item = plugins.find("measures", name)
        except UserError as error:
            mistakes.append(f"{path}: {error.message}")
            hints.append(error.hint)
            continue
        if isinstance(replicates, bool) or not isinstance(replicates, int) or not 1 <= replicates <= MOST:
            mistakes.append(f"{path}.replicates: must be a whole number from 1 to {MOST}, got {shown(replicates)}")
            continue
        if replicates > 1 and not item.target.traits.stochastic:
            mistakes.append(f"{path}.replicates: '{item.name}' is deterministic, a repetition gives the same value")
            continue
        specs, wrong = expand(item.target.Spec, settings, path)
        places, unknown = _points(points, splits, path)
        mistakes += wrong + unknown
        for spec in specs:
            problem = _unknown_scaling(spec, plugins)
            if problem:
                mistakes.append(f"{path}.scaling: {problem.message}")
                hints.append(problem.hint)
                break
            # Without data there are no points: a measure of the weights is the same on all of them.
            own = (
                [""]
                if PlannedMeasure(item, spec).scope == "weights"
                else ["" if place == split else place for place in places]
            )
            for place, replicate in itertools.product(own, range(replicates)):
                key = (item.id, canonical_json(spec.full()), replicate, place)
                planned.setdefault(key, PlannedMeasure(item, spec, replicate, place))
    return list(planned.values()), mistakes, hints


def _points(given: Any, splits: tuple[str, ...] | None, path: str) -> tuple[list[str], list[str]]:
    """Return the splits that a measure is taken on, one or a list as for any field, and the mistakes met."""
    names = given if isinstance(given, list) else [given]
    if not names:
        return [], [f"{path}.points: the list is empty"]
    for i, name in enumerate(names):
        where = f"{path}.points.{i}" if isinstance(given, list) else f"{path}.points"
        if not isinstance(name, str):
            return [], [f"{where}: give the name of a split, got {shown(name)}"]
        if splits is not None and name not in splits:
            return [], [f"{where}: unknown split '{name}'; {did_you_mean(name, splits)}"]
    return names, []


def expand(spec_type: type[Spec], settings: Mapping[str, Any], path: str) -> tuple[list[Spec], list[str]]:
    """Return one spec for each point of the product of the lists in ``settings``, and the mistakes met.

    A mistake in one entry of a sweep is reported with its place, ``measures.0.rho.1``, once.
    """
    given = settings.get("parameters")
    patterns = given if isinstance(given, list) else [given]
    if sum(map(_layer_count, patterns)) > MOST:
        return [], [f"{path}.parameters: more than {MOST} layers are named"]
    layers = [layer for pattern in patterns for layer in _layers(pattern)]
    if layers != patterns:
        settings = {**settings, "parameters": layers}
    axes = {name: value for name, value in settings.items() if _is_axis(spec_type, name, value)}
    empty = [name for name, value in axes.items() if not value]
    if empty:
        return [], [f"{path}.{name}: the list is empty" for name in empty]
    if (count := math.prod(map(len, axes.values()))) > MOST:
        sizes = ", ".join(f"{name} has {len(values)}" for name, values in axes.items())
        return [], [f"{path}: {count} settings are more than the {MOST} of one study: {sizes}"]
    specs: list[Spec] = []
    mistakes: dict[str, None] = {}
    for index in itertools.product(*(range(len(values)) for values in axes.values())):
        place = dict(zip(axes, index, strict=True))
        try:
            specs.append(spec_type.model_validate({**settings, **{name: axes[name][i] for name, i in place.items()}}))
        except ValidationError as error:
            for line in describe(error, spec_type):
                name, _, rest = line.partition(":")
                where = f"{name}.{place[name]}" if name in place and "unknown field" not in rest else name
                mistakes[f"{path}.{where}:{rest}"] = None
    return specs, list(mistakes)


def _is_axis(spec_type: type[Spec], name: str, value: Any) -> bool:
    """Whether a value sweeps its field: a list for a scalar field, a list of lists for one that holds a list."""
    if not isinstance(value, list):
        return False
    return not holds_list(spec_type, name) or (bool(value) and all(isinstance(entry, list) for entry in value))


def holds_list(spec_type: type[Spec], name: str) -> bool:
    """Whether a field's value is itself a list, so that only a list of lists sweeps it."""
    field = spec_type.model_fields.get(name)
    return field is not None and get_origin(field.annotation) in (tuple, list)


def _layer_count(pattern: Any) -> int:
    """Number of patterns that ``_layers`` makes of one."""
    ranges = _RANGE.findall(pattern) if isinstance(pattern, str) else ()
    return math.prod(abs(int(high) - int(low)) + 1 for low, high in ranges)


def _layers(pattern: Any) -> list[Any]:
    """Write out a range in a pattern of parameter names: ``blocks.{0..2}.*`` names three blocks."""
    match = _RANGE.search(pattern) if isinstance(pattern, str) else None
    if match is None:
        return [pattern]
    low, high = int(match[1]), int(match[2])
    numbers = range(low, high + 1) if low <= high else range(low, high - 1, -1)
    return [p for i in numbers for p in _layers(f"{pattern[: match.start()]}{i}{pattern[match.end() :]}")]


def _unknown_scaling(spec: Spec, plugins: Catalog) -> UserError | None:
    scaling = getattr(spec, "scaling", None)
    if isinstance(scaling, str):
        try:
            if is_own(scaling):
                source_digest(scaling)
            else:
                plugins.find("scalings", scaling)
        except UserError as error:
            return error
    return None
