"""The public API as data: every public name with its signature, every setting with its default.

``python tests/golden_api.py --write`` freezes it in ``tests/golden/api.json`` as it is now: for a change that is meant. A name that
goes, or is called otherwise, belongs into ``registry/acutance/deprecations.py`` first.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "api.json"


def public_api() -> dict[str, Any]:
    """Return all that may not change by accident, as JSON values."""
    import acutance

    return {
        "acutance": {name: described(getattr(acutance, name)) for name in sorted(acutance.__all__) if name != "__version__"},
        "modules": {module: {name: described(getattr(import_module(module), name)) for name in sorted(names)}
                    for module, names in sorted(doors().items())},
        "hooks": {name: signature(function) for name, function in sorted(hooks().items())},
        "registered": registered(),
        "study": study_fields(),
        "commands": commands(),
    }  # fmt: skip


def doors() -> dict[str, set[str]]:
    """Return the names that docs/plugins.md says stay where they are, by module."""
    text = (ROOT / "docs" / "plugins.md").read_text()
    rows = re.findall(r"^\| `(acutance\.[\w.]*)` \| ((?:`\w+`(?:, )?)+) \|", text, re.M)
    return {module: set(re.findall(r"\w+", names)) for module, names in rows}


def hooks() -> dict[str, Callable[..., Any]]:
    """Return the functions that a plugin may implement."""
    from acutance import hookspecs

    return {name: f for name, f in vars(hookspecs).items() if getattr(f, "acutance_spec", None) is not None}


def registered() -> dict[str, dict[str, Any]]:
    """Return what the distribution itself registers, with the settings of each and, of measures, the version."""
    from acutance.plugins import KINDS, catalog
    from acutance.spec import Spec

    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        for item in sorted(catalog().items(kind), key=lambda item: item.name):
            if item.dist != "acutance":
                continue
            about: dict[str, Any] = {}
            if kind == "measures":
                about["version"] = item.target.version
            spec = getattr(item.target, "Spec", None)
            if isinstance(spec, type) and issubclass(spec, Spec):
                about["settings"] = settings(spec)
            found.setdefault(kind, {})[item.name] = about
    return found


def study_fields() -> dict[str, Any]:
    """Return the fields of a study's file and of its sections."""
    from acutance.study.config import AnalysisConfig, Bound, FiguresConfig, StudyFile, SurfaceConfig

    return {
        model.__name__: settings(model) for model in (StudyFile, SurfaceConfig, FiguresConfig, AnalysisConfig, Bound)
    }


def commands() -> dict[str, list[str]]:
    """Return the arguments and options of every verb."""
    import click

    from acutance.cli import VERBS, cli

    found = {}
    for verb in sorted(VERBS):
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        found[verb] = sorted("/".join(parameter.opts) for parameter in command.params)
    return found


def described(value: Any) -> Any:
    """Return a name's signature; of a class those of what is public in it."""
    if isinstance(value, enum.EnumType):
        return {"values": [member.value for member in value]}
    if inspect.isclass(value):
        return of_class(value)
    if inspect.isroutine(value) or hasattr(value, "__wrapped__"):
        return signature(value)
    if isinstance(value, str | int | float | bool):
        return {"value": repr(value)}
    if isinstance(value, Mapping):
        return {"names": sorted(map(str, value))}
    if isinstance(value, tuple | list | frozenset):
        return {"names": sorted(str(getattr(one, "name", one)) for one in value)}
    return {"type": re.sub(r", FieldInfo.*|<class '([\w.]+)'>|~| at 0x[0-9a-f]+", r"\1", str(value))}


def of_class(kind: type) -> dict[str, Any]:
    """Return the constructor of a class and the public names of it and of those of our own that it is made from."""
    from pydantic import BaseModel

    if issubclass(kind, BaseModel):
        return {"settings": settings(kind)}
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("acutance"):
            continue
        for name, value in vars(base).items():
            public = not name.startswith("_") or name == "__init__"
            if not public or (getattr(base, "_is_protocol", False) and name == "__init__"):
                continue
            inner = getattr(value, "__func__", value)
            if inspect.isfunction(inner):
                found[name] = signature(inner)
            elif hasattr(value, "__get__") or hasattr(value, "func"):
                found[name] = "property"
        for name, annotation in vars(base).get("__annotations__", {}).items():
            if not name.startswith("_"):
                found.setdefault(name, text(annotation))
    return dict(sorted(found.items()))


def settings(model: Any) -> dict[str, str]:
    """Return {field: type = default} of a spec."""
    written: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        written |= vars(base).get("__annotations__", {})
    found = {}
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f" = {printed(field.get_default(call_default_factory=True))}"
        found[name] = text(written[name]) + default
    return dict(sorted(found.items()))


def signature(function: Callable[..., Any]) -> str:
    """Return a signature as it is written in the source, on any version of Python."""
    try:
        known = inspect.signature(function)
    except (TypeError, ValueError):
        return "?"
    parts, star = [], False
    for one in known.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        mark = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        annotation = "" if one.annotation is one.empty else f": {text(one.annotation)}"
        default = "" if one.default is one.empty else f" = {printed(one.default)}"
        parts.append(f"{mark}{one.name}{annotation}{default}")
    returned = "" if known.return_annotation is known.empty else f" -> {text(known.return_annotation)}"
    return f"({', '.join(parts)}){returned}"


def text(annotation: Any) -> str:
    """Return a type as it is written."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def printed(value: Any) -> str:
    """Return a default, the same on any version of Python."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, frozenset | set):
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def differences(golden: Any, now: Any, where: str = "") -> list[str]:
    """Return what is not as it was, one line each: what went first, then what changed, then what is new."""
    if isinstance(golden, dict) and isinstance(now, dict):
        gone = [f"{where}{name} is gone" for name in golden if name not in now]
        changed = [
            line for name in golden if name in now for line in differences(golden[name], now[name], f"{where}{name}: ")
        ]
        return gone + changed + [f"{where}{name} is new" for name in now if name not in golden]
    return [] if golden == now else [f"{where}was {golden}, is {now}"]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("\n".join(differences(json.loads(GOLDEN.read_text()), public_api())) or 0)
    GOLDEN.write_text(json.dumps(public_api(), indent=1, ensure_ascii=False) + "\n")
