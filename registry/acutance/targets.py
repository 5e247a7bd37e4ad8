"""What a measure is asked to predict: errors and losses on splits, gaps between them, given numbers, attributes.

Spelling: ``test_error`` and ``digits.error`` (classification error on a split), ``test_loss`` and
``digits.loss``, ``generalization_gap`` (test error minus train error); ``attr:learning_rate`` is an attribute and
``given:test_error`` a number that came with the models (published, say). A name that cannot be measured on the
dataset's splits means the given number; one that can be measured is measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from acutance.errors import UserError, did_you_mean

GAP = "generalization_gap"


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        name: as written in the config.
        terms: (sign, measure, split): the target is the signed sum of these cells; empty when nothing is measured.
        attribute: name of the attribute, for ``attr:``.
        given: name of the number that came with the models.
    """

    name: str
    terms: tuple[tuple[int, str, str], ...] = ()
    attribute: str = ""
    given: str = ""

    def known(self, attributes: Mapping[str, Any], given: Mapping[str, float]) -> float | None:
        """Return the value that a model brings itself: its attribute or its given number."""
        value = attributes.get(self.attribute) if self.attribute else given.get(self.given)
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
        return Target(name, attribute=name[5:])
    if name.startswith("given:") and name[6:] in given:
        return Target(name, given=name[6:])
    if name == GAP and (name not in given or {"test", "train"} <= set(splits)):
        return Target(name, ((1, "error", _split("test", splits)), (-1, "error", _split("train", splits))))
    for separator in (".", "_"):
        split, found, quantity = name.rpartition(separator)
        if found and quantity in ("error", "loss") and split in splits:
            return Target(name, ((1, quantity, split),))
    if name in given:
        return Target(name, given=name)
    known = [f"{s}.{q}" for s in splits for q in ("error", "loss")] + ["test_error", "train_error", GAP, *given]
    raise UserError(f"unknown target '{name}'", did_you_mean(name, known) + " Attributes are written attr:name.")


def _split(split: str, splits: tuple[str, ...]) -> str:
    if split not in splits:
        raise UserError(f"{GAP} needs a split '{split}'", "the dataset has: " + ", ".join(splits))
    return split
