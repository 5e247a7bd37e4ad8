"""A user's own functions, named ``module:function`` in a config: found, imported, and part of a result's identity."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from acutance.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])


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
    """Return the sha256 of the file that the function of a ``module:function`` is defined in, without importing it.

    A module that takes the function from another one (``from package.losses import mine``) only names it: what else
    stands there has no part in it.

    Raises:
        UserError: when there is no such module, or it has no source file.
    """
    module, _, function = name.partition(":")
    path = _file_of(module) if function else None
    if path is None:
        raise UserError(f"'{name}': there is no module '{module}'", "write module:function of an importable file")
    passed = {module}
    while (origin := _taken_from(path, module, function)) and origin[0] not in passed:
        there = _file_of(origin[0])
        if there is None:
            break
        path, (module, function) = there, origin
        passed.add(module)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file_of(module: str) -> Path | None:
    """Return the source file of a module; None where there is none."""
    try:
        located = find_spec(module) if module else None
    except (ImportError, ValueError):
        located = None
    if located is None or not located.origin or not Path(located.origin).is_file():
        return None
    return Path(located.origin)


def _taken_from(path: Path, module: str, function: str) -> tuple[str, str] | None:
    """Return the module, and the name there, that a file takes a function from; None where it defines it itself."""
    found = None
    with suppress(SyntaxError, ValueError):
        for node in ast.parse(path.read_bytes()).body:
            if getattr(node, "name", None) == function:
                found = None
            elif isinstance(node, ast.Assign) and any(getattr(t, "id", None) == function for t in node.targets):
                found = None
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names if (alias.asname or alias.name) == function]
                if names:
                    found = _absolute(node, path, module), names[-1]
    return found


def _absolute(node: ast.ImportFrom, path: Path, module: str) -> str:
    """Return the full name of the module of a ``from ... import``, which may be relative to the importing one."""
    if not node.level:
        return node.module or ""
    above = module.split(".")
    package = above[: len(above) - node.level + (path.stem == "__init__")]
    return ".".join([*package, *([node.module] if node.module else [])])


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


def in_own_type(loss: Function) -> Function:
    """Say of a loss of one's own that it takes normalized logits of very many classes in the type of the logits.

    For one that makes its sums in float64 itself, as ``acutance.model.losses.cross_entropy`` does: others are given
    them in float64, of which a copy is as large as the logits twice.
    """
    loss.in_own_type = True  # type: ignore[attr-defined]
    return loss


def refusing(
    check: Callable[[Any, Any], None], inputs: Callable[[Any, Any], None] | None = None
) -> Callable[[Function], Function]:
    """Say of a loss of one's own what refuses targets that it cannot take, in a sentence of its own.

    Args:
        check: called with the logits of some examples and all targets before the loss; raises ``UserError``.
        inputs: called with all inputs and all targets; raises ``UserError``.
    """

    def marked(loss: Function) -> Function:
        loss.refuses, loss.refuses_inputs = check, inputs  # type: ignore[attr-defined]
        return loss

    return marked
