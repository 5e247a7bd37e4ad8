"""A user's own functions, named ``module:function`` in a config: found, imported, and part of a result's identity."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from acutance.errors import UserError


def is_own(name: str) -> bool:
    """Whether a name is written ``module:function``."""
    return ":" in name


def named(function: Callable[..., Any]) -> str:
    """Return the name, ``module:function``, under which a function of an importable file is found again.

    Raises:
        UserError: for a function without such a name (of a notebook, inside a function, bound to an object): keys of
            values contain the digest of its source.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module not in (None, "__main__") and getattr(sys.modules.get(str(module)), name, None) is function:
        with suppress(UserError):
            source_digest(f"{module}:{name}")
            return f"{module}:{name}"
    raise UserError(
        f"{name or type(function).__name__} is in the memory of this process alone",
        "write it into a file as a function and give 'module:function': its source is part of what a value is of",
    )


def source_digest(name: str) -> str:
    """Return the sha256 of the file that a ``module:function`` lives in, without importing it.

    Raises:
        UserError: when there is no such module, or it has no source file.
    """
    module, _, function = name.partition(":")
    try:
        located = find_spec(module) if module and function else None
    except (ImportError, ValueError):
        located = None
    if located is None or not located.origin or not Path(located.origin).is_file():
        raise UserError(f"'{name}': there is no module '{module}'", "write module:function of an importable file")
    return hashlib.sha256(Path(located.origin).read_bytes()).hexdigest()


def load(name: str) -> Any:
    """Return what a ``module:name`` names.

    Raises:
        UserError: when the module cannot be imported or has nothing of that name.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"'{name}' cannot be imported: {error}", "write module:name") from None


def load_function(name: str) -> Callable[..., Any]:
    """Return the function of a ``module:function``.

    Raises:
        UserError: when the module cannot be imported or has no such function.
    """
    function = load(name)
    if not callable(function):
        raise UserError(f"'{name}' is {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]
