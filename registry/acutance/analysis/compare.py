"""Two tables of correlations side by side: what both have, what only one has, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from acutance.analysis.labels import as_text, spec_fields
from acutance.errors import UserError, some
from acutance.presentation import presentation

NUMBERS = ("n", "tau", "low", "high")

Row = dict[str, Any]
Defaults = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True)
class _Side:
    """The rows of one table, and the fields that each of its measures has."""

    rows: list[Row]
    fields: dict[str, dict[str, None]]

    @classmethod
    def of(cls, table: pd.DataFrame) -> _Side:
        rows = table.to_dict("records")
        fields: dict[str, dict[str, None]] = {}
        for row in rows:
            fields.setdefault(str(row["measure"]), {}).update(dict.fromkeys(spec_fields(row)))
        return cls(rows, fields)

    def distinct(self, name: str) -> list[str]:
        return list(dict.fromkeys(str(row.get(name, "all")) for row in self.rows))


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    defaults: Defaults = lambda measure: {},
    targets: Mapping[str, str] | None = None,
    names: tuple[str, str] = ("A", "B"),
) -> pd.DataFrame:
    """Return one row for every definition, target and level that both tables have, then those that only one has.

    Rows match when measure, target, group and the spec fields that both have agree. A field that only one of them has
    counts as the measure's default in the other, unless its measure marks it as one that says how a value is estimated
    (``acutance.spec.estimation``: steps, draws, probes ...): then it is ignored. Levels of ``within`` match by name;
    where they share none and one table has a single level, that one stands beside every level of the other.

    Args:
        a: correlations, with ``measure``, ``target``, ``tau`` and as far as there are ``spec.*``, ``within``,
            ``group``, ``n``, ``low``, ``high``.
        b: another such table; ``printed_target`` is a second name of its targets.
        defaults: a measure's settings where nothing is written; none for a measure that is not known here.
        targets: what a target of ``a`` is called in ``b``, where that is not the same.
        names: what to call the tables in messages.

    Returns:
        ``measure``, ``spec.*``, ``target``, ``within``, ``group``; ``n_a``, ``tau_a``, ``low_a``, ``high_a``;
        ``target_b``, ``within_b``, ``n_b``, ``tau_b``, ``low_b``, ``high_b``; ``difference`` (tau_b - tau_a),
        ``inside`` (tau_b is in the interval of a; None without one), ``found`` (``both``, ``a`` or ``b``).

    Raises:
        UserError: when nothing matches: says which fields differ.
    """
    sides = _Side.of(a), _Side.of(b)
    renamed = dict(targets or {})
    for name in renamed:
        if name not in sides[0].distinct("target"):
            raise UserError(
                f"--target: {names[0]} has no target '{name}'", f"it has {', '.join(sides[0].distinct('target'))}"
            )
    match = _Match(*sides, defaults, renamed)
    places: dict[tuple[str, ...], list[int]] = {}
    for j, row in enumerate(sides[1].rows):
        for key in match.keys_of_b(row):
            places.setdefault(key, []).append(j)
    pairs, used = [], set[int]()
    for row in sides[0].rows:
        partners = [j for j in places.get(match.key_of_a(row), ()) if match.levels_agree(row, sides[1].rows[j])]
        used.update(partners)
        pairs += [_beside(row, sides[1].rows[j]) for j in partners] or [_beside(row, None)]
    if not used:
        raise UserError(f"{names[0]} and {names[1]} have no correlation in common: {match.reason()}", match.advice())
    pairs += [_beside(None, row) for j, row in enumerate(sides[1].rows) if j not in used]
    pairs.sort(key=lambda row: ["both", "a", "b"].index(row["found"]))
    fields = dict.fromkeys(name for row in pairs for name in row if name.startswith("spec."))
    order = ["measure", *fields, "target", "within", "group", "n_a", "tau_a", "low_a", "high_a", "target_b", "within_b"]
    order += ["n_b", "tau_b", "low_b", "high_b", "difference", "inside", "found"]
    return pd.DataFrame(pairs, columns=order)


class _Match:
    """Says which rows of two tables are the same definition, target, level and group."""

    def __init__(self, a: _Side, b: _Side, defaults: Defaults, targets: Mapping[str, str]) -> None:
        self.a, self.b, self.targets = a, b, targets
        self.measures = [measure for measure in a.fields if measure in b.fields]
        self.defaults = {measure: defaults(measure) for measure in self.measures}
        self.fields = {measure: self._fields(measure) for measure in self.measures}
        levels = a.distinct("within"), b.distinct("within")
        shared = set(levels[0]) & set(levels[1])
        self.no_level = not shared and min(map(len, levels)) > 1
        self.by_level = bool(shared) or self.no_level

    def _fields(self, measure: str) -> list[str]:
        one, two = self.a.fields[measure], self.b.fields[measure]
        alone = [f for f in {**one, **two} if (f in one) != (f in two)]
        presented = presentation(measure).estimation
        filled = [f for f in alone if f not in presented and f in self.defaults[measure]]
        return [f for f in one if f in two] + filled

    def settings(self, row: Row) -> tuple[str, ...]:
        measure, row_fields = str(row["measure"]), spec_fields(row)
        side = self.defaults.get(measure, {})
        return tuple(as_text(row_fields.get(field, side.get(field))) for field in self.fields.get(measure, ()))

    def key_of_a(self, row: Row) -> tuple[str, ...]:
        target = str(row["target"])
        return (str(row["measure"]), self.targets.get(target, target), _group(row), *self.settings(row))

    def keys_of_b(self, row: Row) -> list[tuple[str, ...]]:
        called = dict.fromkeys(str(row[name]) for name in ("target", "printed_target") if name in row)
        return [(str(row["measure"]), name, _group(row), *self.settings(row)) for name in called]

    def levels_agree(self, a: Row, b: Row) -> bool:
        return not self.by_level or str(a.get("within", "all")) == str(b.get("within", "all"))

    def reason(self) -> str:
        """Return in which respects the tables have nothing in common."""
        if not self.measures:
            return f"measures {_against(list(self.a.fields), list(self.b.fields))}"
        wanted = [self.targets.get(name, name) for name in self.a.distinct("target")]
        if not set(wanted) & {*self.b.distinct("target"), *self.b.distinct("printed_target")}:
            return f"targets {_against(self.a.distinct('target'), self.b.distinct('target'))}"
        apart = []
        for measure in self.measures:
            values = [
                [
                    dict(zip(self.fields[measure], self.settings(row), strict=True))
                    for row in side.rows
                    if row["measure"] == measure
                ]
                for side in (self.a, self.b)
            ]
            for field in self.fields[measure]:
                one, two = (list(dict.fromkeys(v[field] for v in rows)) for rows in values)
                if not set(one) & set(two):
                    apart.append(f"{field} of {measure} {_against(one, two)}")
        if self.no_level:
            apart.append(f"within {_against(self.a.distinct('within'), self.b.distinct('within'))}")
        return "; ".join(apart) or "no definition agrees in all of " + ", ".join(self.fields[self.measures[0]])

    def advice(self) -> str:
        """Return what may help."""
        return "targets of other names: --target OURS=THEIRS; measures and settings have to be the same"


def _against(one: Sequence[str], two: Sequence[str]) -> str:
    return f"{some(list(one))} against {some(list(two))}"


def _group(row: Row) -> str:
    return str(row.get("group", "all"))


def _beside(a: Row | None, b: Row | None) -> Row:
    """Return one row of the comparison."""
    head = a if a is not None else b
    assert head is not None
    row: Row = {"measure": head["measure"], **{f"spec.{name}": value for name, value in spec_fields(head).items()}}
    row |= {"target": head["target"], "within": head.get("within", "all"), "group": _group(head)}
    row |= {f"{name}_a": _number(a, name) for name in NUMBERS}
    row |= {f"{name}_b": _number(b, name) for name in NUMBERS}
    row |= {"target_b": b and b["target"], "within_b": b and b.get("within", "all")}
    row["difference"] = row["tau_b"] - row["tau_a"]
    comparable = all(math.isfinite(row[name]) for name in ("low_a", "high_a", "tau_b"))
    row["inside"] = row["low_a"] <= row["tau_b"] <= row["high_a"] if comparable else None
    row["found"] = "both" if a is not None and b is not None else "a" if b is None else "b"
    return row


def _number(row: Row | None, name: str) -> float:
    value = None if row is None else row.get(name)
    return math.nan if value is None else float(value)
