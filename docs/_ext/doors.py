"""API pages of what a plugin may import: made of the table in docs/plugins.md, whose names a test holds to be there."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

ROW = re.compile(r"^\| `(acutance[\w.]*)` \| ((?:`\w+`(?:, )?)+) \| (.*) \|$", re.M)

# Described on pages written by hand, docs/api/calls.md and surface.md.
ELSEWHERE = {"acutance", "acutance.plugins", "acutance.surface"}


def directive(module: str, name: str) -> str:
    """Return what describes one name."""
    found = getattr(import_module(module), name)
    if inspect.isclass(found):
        return f".. autoclass:: {module}.{name}\n"
    if inspect.isroutine(found):
        return f".. autofunction:: {module}.{name}\n"
    # What is plain data, or a name for a type, has the docstring of dict, tuple and the like: nothing of its own.
    return f".. py:data:: {module}.{name}\n"


def pages(table: str) -> dict[str, str]:
    """Return a page for each package of the table, with its modules as sections."""
    made: dict[str, list[str]] = {}
    for module, names, what in ROW.findall(table):
        if module not in ELSEWHERE:
            described = "\n".join(directive(module, name) for name in re.findall(r"\w+", names))
            page = ".".join(module.split(".")[:2])
            told = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", what)
            made.setdefault(page, []).append(
                f"## `{module}`\n\n{told[0].upper()}{told[1:]}.\n\n````{{eval-rst}}\n{described}````\n"
            )
    return {f"api/{page}": f"# `{page}`\n\n" + "\n".join(sections) for page, sections in made.items()}


def index(names: list[str]) -> str:
    """Return the page that leads to them."""
    listed = "\n".join(sorted(name.removeprefix("api/") for name in names))
    return (
        "# For plugin authors\n\nWhat a plugin may import: these names stay where they are. "
        "[Writing a plugin](../../plugins.md) tells how they go together.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )
