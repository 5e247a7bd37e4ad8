"""Reading YAML that somebody else wrote, and writing it: version 1.2, plain data only, one-sentence errors.

YAML 1.1, which PyYAML reads, takes ``yes`` for true, ``010`` for 8, ``1:30`` for 90, ``1e-3`` for a text and
``2026-01-02`` for a date. Here the core schema of YAML 1.2.2 (section 10.3.2) says what a plain word is.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from acutance.errors import UserError

LIMIT = 1_000_000  # characters of text, and nodes after aliases are expanded
DEPTH = 50  # of mappings and lists in one another
DIGITS = 300  # of a whole number: no float is longer

_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_KINDS = (*_CORE, "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """Loader of the core schema; it refuses a key given twice, which YAML would silently let the last one win."""

    yaml_implicit_resolvers: dict[Any, Any] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _wrong("is marked as a mapping, but is none", node)
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _wrong("a list or a mapping is used as a key", key_node)
            if key_node.value == "<<" and not key_node.style:
                raise _wrong("merge keys (<<) are not part of YAML 1.2: write the keys out", key_node)
            key = self.construct_object(key_node, deep=True)
            if key in found:
                raise _wrong(f"the key '{key}' is given twice", key_node)
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_plain(self, node: yaml.Node) -> Any:
        """Return a word as what its tag says."""
        kind, text = node.tag.removeprefix(_TAG), node.value
        if not isinstance(node, yaml.ScalarNode) or not re.fullmatch(_CORE[kind], text):
            raise _wrong(f"{_short(text)} is no {kind} of YAML 1.2", node)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if len(text) > DIGITS:
            raise _wrong(f"a number of {len(text)} digits", node)
        if kind == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        value = float(text.replace(".", "") if text[-1].isalpha() else text)  # .inf and .nan are Python's without a dot
        if math.isinf(value) and text[-1].isdigit():
            raise _wrong(f"{_short(text)} is larger than any number here (write .inf for infinity)", node)
        return value

    def construct_foreign(self, node: yaml.Node) -> Any:
        """Refuse what is no plain data: dates, sets, bytes, objects."""
        raise _wrong(f"the tag {_short(node.tag.replace(_TAG, '!!'))} asks for more than plain data", node)


def _construct_text(loader: _Loader, node: yaml.Node) -> str:
    return str(loader.construct_scalar(node))  # type: ignore[arg-type]


def _construct_list(loader: _Loader, node: yaml.Node) -> list[Any]:
    return loader.construct_sequence(node, deep=True)  # type: ignore[arg-type]


for _kind, _pattern in _CORE.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), None)
    _Loader.add_constructor(_TAG + _kind, _Loader.construct_plain)
_Loader.add_constructor(_TAG + "str", _construct_text)
_Loader.add_constructor(_TAG + "seq", _construct_list)
_Loader.add_constructor(_TAG + "map", _Loader.construct_mapping)
_Loader.add_constructor(None, _Loader.construct_foreign)


class _Dumper(yaml.SafeDumper):
    """Writes what YAML 1.1 and 1.2 read alike: a text that is a number or a truth value to either stands in quotes."""


for _kind, _pattern in _CORE.items():
    _Dumper.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), None)


def dump_yaml(data: Any, **options: Any) -> str:
    """Return plain data as YAML that ``parse_yaml`` reads as the same; keys stay in their order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)
    return text


def _wrong(message: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


def _short(text: object) -> str:
    words = str(text)
    return f"'{words if len(words) <= 40 else words[:40] + '...'}'"


def read_yaml(path: Path) -> Any:
    """Return the data of a YAML file.

    Raises:
        UserError: for a file that cannot be read, is not valid YAML, or asks for more than plain data.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", "give a file that you may read") from None
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is no text in UTF-8 or UTF-16", "save the file as UTF-8") from None
    return parse_yaml(text, str(path))


def _encoding(data: bytes) -> str:
    """Return what a text is written in, by its mark or its first character, an ASCII one (YAML 1.2.2, section 5.2)."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if data[:1] == b"\0" or data[1:2] == b"\0":
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    return "utf-8-sig"


def parse_yaml(text: str, where: str) -> Any:
    """Return the data of YAML text; ``where`` names it in errors.

    Raises:
        UserError: as ``read_yaml``.
    """
    if len(text) > LIMIT:
        raise UserError(f"{where}: longer than {LIMIT} characters", "a config is a page of text")
    try:
        data = yaml.load(text, Loader=_Loader)
        _count(data, {}, where, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        problem = problem.replace("found unconstructable recursive node", "a value contains itself")
        raise UserError(f"{where}: not valid YAML{at}: {problem}") from None
    except RecursionError:
        raise UserError(f"{where}: nested more than {DEPTH} deep") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: not valid YAML: {error}") from None
    return data


def _count(node: Any, sizes: dict[int, int], where: str, depth: int) -> int:
    """Number of nodes with aliases expanded; refuses depth, exponential growth and loops before anybody walks them."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise UserError(f"{where}: a value contains itself")
        return sizes[id(node)]
    if depth == DEPTH:
        raise UserError(f"{where}: nested more than {DEPTH} deep")
    sizes[id(node)] = -1
    children = node.values() if isinstance(node, dict) else node
    size = 1 + sum(_count(child, sizes, where, depth + 1) for child in children)
    if size > LIMIT:
        raise UserError(f"{where}: aliases expand to more than {LIMIT} values")
    sizes[id(node)] = size
    return size
