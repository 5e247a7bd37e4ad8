"""Sections of a study file made of what a user has in hand: points, a list of measures, settings of a surface."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from acutance.dataset import Split
from acutance.errors import UserError

POINTS, M = 1024, 128  # as in a study file, where there are so many


def splits_of(data: Any, test: Any, others: Mapping[str, Any] | None, where: str = "data") -> dict[str, Split]:
    """Return the points by split: ``data`` is train, ``test`` is test, the others have the names they are given.

    Args:
        data: the points that are measured on.
        test: those of the split ``test``; None for none.
        others: more splits.
        where: what messages call the first argument.

    Raises:
        UserError: for points that cannot be read, or have no targets, and for names that are none.
    """
    splits = {"train": split_of(where, data)}
    if test is not None:
        splits["test"] = split_of("test", test)
    for name, points in (others or {}).items():
        if name in splits:
            argument = where if name == "train" else name
            raise UserError(f"splits: '{name}' is given twice", f"the split '{name}' is the argument '{argument}'")
        if not re.fullmatch(r"\w+", str(name)):
            raise UserError(f"splits: '{name}' is not a plain name", "use letters, digits and underscores")
        splits[str(name)] = split_of(f"splits.{name}", points)
    return splits


def split_of(where: str, data: Any) -> Split:
    """Return points as a split; one that is a split already keeps its score."""
    from acutance.data.forms import understand

    points = understand(data, where, stacklevel=5)
    if not points.labelled:
        raise UserError(f"{where}: there are no targets (labels), which the loss needs", "give (inputs, targets)")
    return data if isinstance(data, Split) else Split(points.inputs, points.targets)


def surface_section(train: Split, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the surface section, with as many points as there are."""
    points = settings.get("points", min(POINTS, len(train)))
    m = settings.get("m", min(M, points) if isinstance(points, int) else M)
    balanced = not train.targets.is_floating_point() and train.targets.dim() == 1
    return {"points": points, "m": m, "select": "balanced" if balanced else "first", **settings}


def measures_section(measures: Sequence[Mapping[str, Any] | str]) -> list[dict[str, Any]]:
    """Return the section of measures: a name alone is a measure without settings.

    Raises:
        UserError: for something else than a list, and for none.
    """
    if isinstance(measures, str | Mapping) or not measures:
        raise UserError(
            "measures: give a list of at least one",
            'for example [{"name": NAME, "rho": [0.001, 0.002]}]; acutance list measures has the names',
        )
    return [{"name": m} if isinstance(m, str) else dict(m) for m in measures]


def names_of(names: Sequence[str], argument: str) -> list[str]:
    """Return names as a list.

    Raises:
        UserError: for a text, which is a list of letters to Python.
    """
    if isinstance(names, str):
        raise UserError(f"{argument}: got the text '{names}'", f'write a list: ["{names}"]')
    return list(names)
