"""When a new figure is worse than the committed one: the rule, apart from any timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]

TOLERANCE = 0.10  # a ratio may grow by this share
PASSES = ("forwards", "backwards", "hvps")


@dataclass
class Comparison:
    """What a run says beside the committed figures: failures by case, and notes."""

    failures: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def slower(new: Row, old: Row) -> str:
    """Return in which way the time is worse, or an empty string.

    A ratio is compared with the committed ratio; a time that is no ratio (start-up, say) depends on what else the
    machine does, and is compared with its bound, when the committed one held it.
    """
    if new.get("ratio") is not None and old.get("ratio") is not None:
        if new["ratio"] > (1 + TOLERANCE) * old["ratio"]:
            return f"ratio {new['ratio']:.3f}, was {old['ratio']:.3f} (+{100 * (new['ratio'] / old['ratio'] - 1):.0f}%)"
    elif new.get("seconds") is not None and new.get("bound") is not None and met(new) is False and met(old):
        return f"{new['seconds']:.3f} s, bound {new['bound']:g} s, was {old['seconds']:.3f} s"
    return ""


def other_passes(new: Row, old: Row) -> str:
    """Return which pass counts changed, or an empty string: they are exact, so any change is one."""
    changed = [
        f"{name} {new[name]:g}, was {old[name]:g}"
        for name in PASSES
        if new.get(name) is not None and old.get(name) is not None and new[name] != old[name]
    ]
    return "passes changed: " + ", ".join(changed) if changed else ""


def met(row: Row) -> bool | None:
    """Return whether a figure holds its bound; None where there is none."""
    value = row.get("ratio") if row.get("ratio") is not None else row.get("seconds")
    if row.get("bound") is None or value is None:
        return None
    return bool(value <= row["bound"])


def compare(new: Mapping[str, Row], old: Mapping[str, Row], complete: bool = True) -> Comparison:
    """Compare the cases of a run with the committed ones.

    Args:
        new: measured cases.
        old: committed cases of the same machine.
        complete: whether all cases were asked for, so that a missing one is worth a note.
    """
    found = Comparison()
    for case, row in new.items():
        if case not in old:
            found.notes.append(f"{case}: new, nothing to compare with; make bench records it")
        elif faults := [fault for fault in (slower(row, old[case]), other_passes(row, old[case])) if fault]:
            found.failures[case] = faults
    if complete:
        found.notes += [f"{case}: committed, but not measured now" for case in old if case not in new]
    return found
