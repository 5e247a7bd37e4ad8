"""What a measure is asked to predict: errors and losses on splits, gaps between them, attributes.

Spelling: ``test_error`` and ``digits.error`` (classification error on a split), ``test_loss`` and
``digits.loss``, ``generalization_gap`` (test error minus train error), ``attr:learning_rate``.
"""

from __future__ import annotations

from dataclasses import dataclass

from acutance.errors import UserError, did_you_mean

GAP = "generalization_gap"


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        name: as written in the config.
        terms: (sign, measure, split): the target is the signed sum of these cells; empty for an attribute.
        attribute: name of the attribute, for ``attr:``.
    """

    name: str
    terms: tuple[tuple[int, str, str], ...] = ()
    attribute: str = ""


def parse_target(name: str, splits: tuple[str, ...]) -> Target:
    """Return the target of a name.

    Args:
        name: as in the config.
        splits: splits of the dataset.

    Raises:
        UserError: for a name that means nothing, with the nearest one that does.
    """
    if name.startswith("attr:") and len(name) > 5:
        return Target(name, attribute=name[5:])
    if name == GAP:
        return Target(name, ((1, "error", _split("test", splits)), (-1, "error", _split("train", splits))))
    for separator in (".", "_"):
        split, found, quantity = name.rpartition(separator)
        if found and quantity in ("error", "loss") and split in splits:
            return Target(name, ((1, quantity, split),))
    known = [f"{s}.{q}" for s in splits for q in ("error", "loss")] + ["test_error", "train_error", GAP]
    raise UserError(f"unknown target '{name}'", did_you_mean(name, known) + " Attributes are written attr:name.")


def _split(split: str, splits: tuple[str, ...]) -> str:
    if split not in splits:
        raise UserError(f"{GAP} needs a split '{split}'", "the dataset has: " + ", ".join(splits))
    return split
