"""Which correlations count, and when one holds: one rule for every table, sentence, star and colour.

Errors, losses and gaps are what a measure is to predict. An attribute (``attr:``) or another measure (``measure:``) is
a relation: shown, with a family of its own, and counted nowhere. A number that was given and one that was measured are
the same target twice: the measured one counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

ALPHA = 0.05  # family-wise error of what is said to hold
RELATIONS = ("attr:", "measure:")
HOLDS = "adjusted p < 0.05, and the interval leaves out 0"


def outcomes(targets: Sequence[str]) -> list[str]:
    """Return the targets that count, in their order: errors, losses and gaps, each once.

    >>> outcomes(["given:test_error", "test.error", "ood_error", "attr:lr", "measure:trace", "given:old_error"])
    ['test.error', 'ood_error', 'given:old_error']
    """
    chosen: dict[str, str] = {}
    for name in targets:
        if not name.startswith(RELATIONS):
            earlier = chosen.get(_quantity(name))
            if earlier is None or (earlier.startswith("given:") and not name.startswith("given:")):
                chosen[_quantity(name)] = name
    return [name for name in targets if chosen.get(_quantity(name)) == name and not name.startswith(RELATIONS)]


def families(targets: Sequence[str]) -> list[list[int]]:
    """Return the places of the targets whose correlations share one adjusted p: those that count, and the others."""
    counted = set(outcomes(targets))
    parts = [[i for i, name in enumerate(targets) if (name in counted) is judged] for judged in (True, False)]
    return [part for part in parts if part]


def holds(row: Mapping[str, Any]) -> bool:
    """Return whether a correlation holds: adjusted p below 5%, and no interval that says it may be 0.

    With few models the permutation test and the bootstrap can disagree; what only one of them shows does not hold.

    Args:
        row: with ``p_adjusted``, and ``low`` and ``high`` where there is an interval.
    """
    p, low, high = (float(row.get(name, math.nan)) for name in ("p_adjusted", "low", "high"))
    return p < ALPHA and not low <= 0 <= high


def holding(table: pd.DataFrame) -> pd.Series:
    """Return ``holds`` of each row of a table of correlations."""
    return (table["p_adjusted"] < ALPHA) & ~((table["low"] <= 0) & (table["high"] >= 0))


def open_sign(row: Mapping[str, Any]) -> bool:
    """Return whether the sign of a correlation is not known: its interval includes 0, or there is none."""
    low, high = float(row.get("low", math.nan)), float(row.get("high", math.nan))
    return not (low > 0 or high < 0)


def counted(table: pd.DataFrame, targets: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the rows that count: of all models of a level, against a target that counts, with a number.

    Args:
        table: of correlations.
        targets: of the study; those of the table by default.
    """
    chosen = outcomes(list(dict.fromkeys(map(str, table["target"]))) if targets is None else targets)
    return table[(table["group"] == "all") & table["target"].isin(chosen) & table["tau"].notna()]


def _quantity(target: str) -> str:
    """Return what a target is a number of, however it is spelt and wherever the number is from."""
    plain = target.removeprefix("given:")
    if plain == "generalization_gap":
        return "test_gap"
    for separator in (".", "_"):
        split, found, quantity = plain.rpartition(separator)
        if found and quantity == "perplexity":  # ranks models as the loss does
            return f"{split}_loss"
    split, dot, quantity = plain.rpartition(".")
    return f"{split}_{quantity}" if dot and quantity in ("error", "loss", "gap") else plain
