"""What a plugin gives beside a value, as JSON has it: numbers of any make as numbers, arrays as lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def json_value(value: Any) -> Any:
    """Return a value as JSON has it; plain ones as they are.

    Numbers of NumPy and torch become Python's, arrays and tensors lists of these.

    Raises:
        TypeError: for what JSON does not have, a set, a path or a complex number, saying what it is.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if isinstance(value, Mapping):
        return {json_name(name): json_value(entry) for name, entry in value.items()}
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        if isinstance(number := value.item(), bool | int | float):
            return number
    elif hasattr(value, "ndim") and hasattr(value, "tolist"):
        return json_value(value.tolist())
    raise TypeError(f"is a {type(value).__name__}, which is no number, text, list or mapping of these")


def json_name(name: Any) -> Any:
    """Return the name of an entry of a mapping as it is.

    Raises:
        TypeError: for one that JSON cannot make a text of.
    """
    if name is None or isinstance(name, str | int | float):  # JSON makes texts of them
        return name
    raise TypeError(f"has a {type(name).__name__} as a name, which is no text")
