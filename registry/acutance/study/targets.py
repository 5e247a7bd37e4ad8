"""What a measure is asked to predict: errors and losses on splits, gaps between them, given numbers, attributes.

Spelling: ``test_error`` and ``digits.error`` (classification error on a split), ``test_loss`` and ``digits.loss``,
``digits.perplexity`` (the exponential of that loss), ``generalization_gap`` (test error minus train error),
``digits.gap`` (error on that split minus train error); ``attr:learning_rate`` is an attribute and ``given:test_error``
a number that came with the models (published, say). A name that cannot be measured on the dataset's splits means the
given number; one that can be measured is measured. ``measure:hessian_trace`` is the value of one of the study's own
measures, with settings where there are several: ``measure:worst_case(rho=0.1, norm=l2)``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from acutance.errors import UserError, did_you_mean
from acutance.io.yaml_files import parse_yaml
from acutance.spec import canonical_json
from acutance.study.plan import PlannedMeasure

GAP = "generalization_gap"
LARGEST = math.log(sys.float_info.max)  # loss with a perplexity


Term = tuple[int, str, str]


@dataclass(frozen=True)
class SplitTarget:
    """Measured on splits.

    Attributes:
        name: as written in the config.
        terms: (sign, measure, split): the target is the signed sum of these cells.
        exponential: whether it is the exponential of that sum.
    """

    name: str
    terms: tuple[Term, ...]
    exponential: bool = False

    def of(self, values: Sequence[float]) -> float | None:
        """Return the target of the cells' values, in the order of the terms; None where no number is so large."""
        total = sum(sign * value for (sign, _, _), value in zip(self.terms, values, strict=True))
        if not self.exponential:
            return total
        return math.exp(total) if total < LARGEST else None


@dataclass(frozen=True)
class AttributeTarget:
    """An attribute of the models, ``attr:NAME``."""

    name: str
    attribute: str

    def known(self, attributes: Mapping[str, Any], given: Mapping[str, float]) -> float | None:
        """Return the value that a model brings itself; None where it has none, or no number."""
        return _number(attributes.get(self.attribute))


@dataclass(frozen=True)
class GivenTarget:
    """A number that came with the models, published say."""

    name: str
    given: str

    def known(self, attributes: Mapping[str, Any], given: Mapping[str, float]) -> float | None:
        """Return the value that a model brings itself; None where it has none."""
        return _number(given.get(self.given))


@dataclass(frozen=True)
class MeasureTarget:
    """The value of one of the study's measures, ``measure:NAME(field=value)``.

    Attributes:
        name: as written in the config.
        measure: name of the measure.
        settings: (field, value) of the spec that say which one.
    """

    name: str
    measure: str
    settings: tuple[tuple[str, Any], ...] = ()

    def asks_for(self, planned: PlannedMeasure) -> bool:
        """Return whether the target is the value of this measure of the study."""
        if self.measure not in (planned.item.name, planned.item.id):
            return False
        fields = planned.settings
        return all(
            fields.get(name) == value and isinstance(fields.get(name), bool) == isinstance(value, bool)
            for name, value in self.settings
        )

    def check(self, planned: Sequence[PlannedMeasure]) -> None:
        """Refuse a ``measure:`` that the study does not have, or has several times.

        Raises:
            UserError: with the measures that there are, or the settings that tell them apart.
        """
        found = {canonical_json(p.settings): p.settings for p in planned if self.asks_for(p)}
        if not found:
            names = sorted({p.item.name for p in planned})
            raise UserError(
                f"'{self.name}' is none of the study's measures",
                did_you_mean(self.measure, names) + " A setting must be that of the measure.",
            )
        if len(found) > 1:
            fields = {name: None for settings in found.values() for name in settings}
            several = [name for name in fields if len({str(spec.get(name)) for spec in found.values()}) > 1]
            raise UserError(
                f"'{self.name}' is {len(found)} of the study's measures",
                f"say which, as in measure:{self.measure}({', '.join(f'{n}=...' for n in several)})",
            )


Target: TypeAlias = SplitTarget | AttributeTarget | GivenTarget | MeasureTarget


def terms_of(targets: Iterable[Target]) -> list[Term]:
    """Return the terms of those targets that are measured on splits."""
    return [term for target in targets if isinstance(target, SplitTarget) for term in target.terms]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def parse_target(name: str, splits: tuple[str, ...], given: Collection[str] = ()) -> Target:
    """Return the target of a name.

    Args:
        name: as in the config.
        splits: splits of the dataset.
        given: names of the targets that came with the models.

    Raises:
        UserError: for a name that means nothing, with the nearest one that does.
    """
    if name.startswith("attr:") and len(name) > 5:
        return AttributeTarget(name, name[5:])
    if name.startswith("measure:"):
        return _measure(name)
    if name.startswith("given:") and name[6:] in given:
        return GivenTarget(name, name[6:])
    if name == GAP and (name not in given or {"test", "train"} <= set(splits)):
        return SplitTarget(name, ((1, "error", _split("test", splits)), (-1, "error", _split("train", splits))))
    for separator in (".", "_"):
        split, found, quantity = name.rpartition(separator)
        if found and quantity in ("error", "loss") and split in splits:
            return SplitTarget(name, ((1, quantity, split),))
        if found and quantity == "perplexity" and split in splits:
            return SplitTarget(name, ((1, "loss", split),), exponential=True)
        if found and quantity == "gap" and {split, "train"} <= set(splits):
            return SplitTarget(name, ((1, "error", split), (-1, "error", "train")))
    if name in given:
        return GivenTarget(name, name)
    usual = {"test_error": ("test",), "train_error": ("train",), GAP: ("test", "train")}
    if missing := [split for split in usual.get(name, ()) if split not in splits]:
        raise UserError(f"unknown target '{name}': there is no split '{missing[0]}'", "splits: " + ", ".join(splits))
    known = [f"{s}.{q}" for s in splits for q in ("error", "loss", "perplexity", "gap")]
    known += [*(target for target, needed in usual.items() if {*needed} <= {*splits}), *given]
    raise UserError(f"unknown target '{name}'", did_you_mean(name, known) + " Attributes are written attr:name.")


def _measure(name: str) -> MeasureTarget:
    """Return the target ``measure:NAME`` or ``measure:NAME(field=value, field=value)``."""
    written = re.fullmatch(r"measure:([\w./-]+)(?:\((.*)\))?", name)
    pairs = [pair.partition("=") for pair in (written[2] or "").split(",") if pair.strip()] if written else []
    if not written or not all(found and field.strip() for field, found, _ in pairs):
        raise UserError(f"'{name}' is not a measure's value", "write measure:NAME or measure:NAME(field=value, ...)")
    settings = tuple((field.strip(), parse_yaml(text, name)) for field, _, text in pairs)
    return MeasureTarget(name, written[1], settings)


def _split(split: str, splits: tuple[str, ...]) -> str:
    if split not in splits:
        raise UserError(f"{GAP} needs a split '{split}'", "the dataset has: " + ", ".join(splits))
    return split
