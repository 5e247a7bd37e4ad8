"""The versions of a study's file, and what makes each the next one.

Format 1 is that of acutance 0.1. A change that an older file would not survive raises ``FORMAT`` and adds a function to
``MIGRATIONS``, which is given the sections as they were read and returns those of the next format; ``StudyFile.format``
names the newest alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acutance.errors import UserError

FORMAT = 1
# Of a format: what makes the sections of the next one.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def current(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a study's sections in the newest format; what names none is left to the validation.

    Args:
        data: the sections as read.
        where: the file, for messages.

    Raises:
        UserError: for a format that is newer, or too old.
    """
    given = data.get("format")
    if isinstance(given, bool) or not isinstance(given, int):
        return data
    if given > FORMAT:
        raise UserError(
            f"{where}: format: {given} was written for a newer acutance, this one reads {FORMAT}",
            "pip install -U acutance",
        )
    for step in range(given, FORMAT):
        if step not in MIGRATIONS:
            raise UserError(f"{where}: format: {given} is none that acutance reads", f"write format: {FORMAT}")
        data = MIGRATIONS[step](data) | {"format": step + 1}
    return data
