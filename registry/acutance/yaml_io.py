"""Reading YAML that somebody else wrote: plain data only, no duplicate keys, no bombs, one-sentence errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from acutance.errors import UserError

LIMIT = 1_000_000  # characters of text, and nodes after aliases are expanded


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, which YAML would silently let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool | None):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key}' is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return the data of a YAML file.

    Raises:
        UserError: for a file that cannot be read, is not valid YAML, or asks for more than plain data.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Return the data of YAML text; ``where`` names it in errors.

    Raises:
        UserError: as ``read_yaml``.
    """
    if len(text) > LIMIT:
        raise UserError(f"{where}: longer than {LIMIT} characters", "a config is a page of text")
    try:
        data = yaml.load(text, Loader=_Loader)
        _count(data, {}, where)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML{at}: {problem}") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: not valid YAML: {error}") from None
    return data


def _count(node: Any, sizes: dict[int, int], where: str) -> int:
    """Number of nodes with aliases expanded; refuses exponential growth and loops before anybody walks them."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise UserError(f"{where}: a value contains itself")
        return sizes[id(node)]
    sizes[id(node)] = -1
    children = node.values() if isinstance(node, dict) else node
    size = 1 + sum(_count(child, sizes, where) for child in children)
    if size > LIMIT:
        raise UserError(f"{where}: aliases expand to more than {LIMIT} values")
    sizes[id(node)] = size
    return size
