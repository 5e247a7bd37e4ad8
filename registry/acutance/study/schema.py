"""JSON schema of the study file with everything that is installed, for completion and checks in an editor.

All of it is derived from the pydantic models of the file's sections and of the plugins' specs. Where pydantic
writes ``anyOf`` or ``oneOf``, a validator can only say that nothing fits; here every choice is a chain of
``if`` ... ``then`` ... ``else`` on what was written (the name, or the type of the value), so that each mistake
gives one message, at its place. What depends on several fields (m and points, targets and splits) is left to
``acutance check``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from acutance.errors import AcutanceWarning
from acutance.plugins import Catalog, Item, Kind
from acutance.study.config import StudyFile
from acutance.study.plan import holds_list
from acutance.study.surface_config import LOSSES

Schema = dict[str, Any]

# The draft that editors' YAML servers read in full.
DRAFT = "http://json-schema.org/draft-07/schema#"
ANNOTATIONS = ("title", "description", "default")
# Keywords whose values map names to schemas, and those whose values are data.
MAPS, DATA = ("properties", "$defs", "patternProperties"), ("default", "enum", "const", "examples", "required")


def study_schema(plugins: Catalog) -> Schema:
    """Return the schema of a study file.

    Args:
        plugins: what is installed; its names are the only ones that the schema admits.
    """
    schema = StudyFile.model_json_schema()
    definitions: dict[str, Schema] = schema.pop("$defs")
    properties = schema["properties"]
    properties["pools"]["items"] = _chain("pools", plugins, _section, definitions)
    properties["measures"]["items"] = _chain("measures", plugins, _swept_section, definitions)
    properties["sinks"]["items"] = _chain("sinks", plugins, _section, definitions)
    for name, kind in _SECTIONS.items():
        properties[name] = _annotations(properties[name]) | _chain(kind, plugins, _section, definitions)
    surface = definitions["SurfaceConfig"]["properties"]
    surface["loss"] = _word_or_function(LOSSES, surface["loss"])
    schema |= {"title": "Study of acutance", "allOf": [_splits(item, plugins) for item in plugins.usable("datasets")]}
    exact = {name: _exact(definition, definitions) for name, definition in definitions.items()}
    return {"$schema": DRAFT, **_exact(schema, definitions), "$defs": exact}


_SECTIONS: Mapping[str, Kind] = {"dataset": "datasets", "executor": "executors"}


def _chain(
    kind: Kind, plugins: Catalog, section: Callable[[Item, str, Catalog], Schema], definitions: dict[str, Schema]
) -> Schema:
    """Return the schema of a section whose fields depend on its name; adds a definition for each item."""
    branches, known = [], []
    for item in plugins.usable(kind):
        key = f"{kind}.{item.id}".replace("/", ".")
        spec = section(item, key, plugins)
        definitions |= {f"{key}.{name}": nested for name, nested in spec.pop("$defs", {}).items()}
        definitions[key] = spec
        names = plugins.names(item)
        known += names
        branches.append({"if": _called("name", {"enum": names}), "then": {"$ref": f"#/$defs/{key}"}})
    about: Schema = {"description": f"Name of the {kind.removesuffix('s')}."}
    found: Schema = {"type": "object", "required": ["name"], "properties": {"name": about}}
    if not branches:
        return found
    return found | {"properties": {"name": {"enum": known, **about}}, "allOf": branches}


def _called(field: str, value: Schema) -> Schema:
    """Return a condition: an object with a field that fits. Without the type, anything but an object would fit."""
    return {"type": "object", "required": [field], "properties": {field: value}}


def _section(item: Item, key: str, plugins: Catalog) -> Schema:
    """Return the schema of a section with the settings of one item."""
    try:
        schema: Schema = item.target.Spec.model_json_schema(ref_template=f"#/$defs/{key}.{{model}}")
    except PydanticInvalidForJsonSchema as error:
        told = str(error).splitlines()[0]
        warnings.warn(f"{item.id}: its settings are left unchecked: {told}", AcutanceWarning, stacklevel=2)
        return {"type": "object"}
    schema["properties"] = {"name": {}, **schema.get("properties", {})}
    return schema


def _swept_section(item: Item, key: str, plugins: Catalog) -> Schema:
    """Return the schema of a measure's section: a list for a scalar field is a sweep, and there are replicates."""
    schema = _section(item, key, plugins)
    fields = schema.get("properties", {})
    if fields.get("scaling", {}).keys() & {"type", "enum", "const"} == {"type"}:
        names = [name for scaling in plugins.items("scalings") for name in plugins.names(scaling)]
        fields["scaling"] = _word_or_function(names, fields["scaling"])
    for name in fields.keys() - {"name"}:
        fields[name] = _sweep(fields[name], holds_list(item.target.Spec, name))
    if fields:
        split: Schema = {"type": "string", "minLength": 1}
        fields["points"] = {
            "anyOf": [split, {"type": "array", "minItems": 1, "items": split}],
            "description": "Split of its points, that of surface.split by default; a list measures on several.",
        }
        fields["replicates"] = {
            "type": "integer", "minimum": 1, "default": 1,
            "description": "Independent repetitions, each with noise of its own.",
        }  # fmt: skip
        if not item.target.traits.stochastic:
            fields["replicates"] |= {"maximum": 1, "description": "1: this measure is deterministic."}
    return schema


def _sweep(field: Schema, of_lists: bool) -> Schema:
    one = {key: value for key, value in field.items() if key not in ANNOTATIONS}
    many = {"type": "array", "minItems": 1, "items": one}
    axis: Schema = {"type": "array", "minItems": 1, "items": {"type": "array"}} if of_lists else {"type": "array"}
    return _annotations(field) | {"if": axis, "then": many, "else": one}


def _word_or_function(words: Iterable[str], field: Schema) -> Schema:
    """Return the schema of a field that names something known, or a function of one's own."""
    own = {"type": "string", "pattern": ":"}
    function = {"pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"}
    return _annotations(field) | {"if": own, "then": function, "else": {"enum": list(words)}}


def _annotations(schema: Schema) -> Schema:
    return {key: schema[key] for key in ANNOTATIONS if key in schema}


def _splits(item: Item, plugins: Catalog) -> Schema:
    """Return the condition that the surface's split is one of this dataset's, where this is the dataset."""
    known = item.target.splits
    # Where a dataset's settings name its splits, only the study itself can tell.
    split = {"enum": list(known)} if isinstance(known, tuple) else {"type": "string"}
    surface = {"properties": {"surface": {"properties": {"split": split}}}}
    return {"if": _called("dataset", _called("name", {"enum": plugins.names(item)})), "then": surface}


def _exact(schema: Any, definitions: Mapping[str, Schema]) -> Any:
    """Return a schema in which alternatives of different types are chains, so that one of them gives the message."""
    if isinstance(schema, list):
        return [_exact(entry, definitions) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found: Schema = {}
    for key, value in schema.items():
        if key in MAPS:
            found[key] = {name: _exact(entry, definitions) for name, entry in value.items()}
        else:
            found[key] = value if key in DATA else _exact(value, definitions)
    if found.keys() & {"enum", "const"}:
        # The type of the values says nothing more, and would be a second complaint.
        found.pop("type", None)
    if found.keys() >= {"enum", "const"}:
        # pydantic 2.9 says a single value in both ways: two complaints as well.
        del found["enum"]
    if "prefixItems" in found:
        found["items"] = found.pop("prefixItems")
    for key in ("anyOf", "oneOf"):
        if key in found and all(alternative.keys() == {"type"} for alternative in found[key]):
            # Plain types need no chain; every integer is a number.
            kinds = {alternative["type"] for alternative in found.pop(key)}
            found["type"] = sorted(kinds - {"integer"} if "number" in kinds else kinds)
        elif key in found:
            found[key] = _plain_together(found[key])
            types = [_types(alternative, definitions) for alternative in found[key]]
            if all(types) and sum(map(len, types)) == len(set[str]().union(*types)):
                alternatives = found.pop(key)
                chain = alternatives[0]
                for alternative, kinds in zip(alternatives[1:], types[1:], strict=True):
                    chain = {"if": {"type": sorted(kinds)}, "then": alternative, "else": chain}
                found |= chain
    return found


_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}


def _plain_together(alternatives: Sequence[Schema]) -> list[Schema]:
    """Return alternatives; where several are nothing but a type, these as one in their place: integers are numbers."""
    plain = [alternative for alternative in alternatives if alternative.keys() == {"type"}]
    if len(plain) < 2:
        return list(alternatives)
    kinds = {alternative["type"] for alternative in plain}
    together: Schema = {"type": sorted(kinds - {"integer"} if "number" in kinds else kinds)}
    kept = [together if alternative is plain[0] else alternative for alternative in alternatives]
    return [alternative for alternative in kept if alternative is together or alternative not in plain]


def _types(schema: Schema, definitions: Mapping[str, Schema]) -> set[str]:
    """Return the JSON types a schema admits; empty where it does not say, or says both integer and number."""
    if "$ref" in schema:
        return _types(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "type" in schema:
        kinds = {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
    else:
        values = schema.get("enum", [schema["const"]] if "const" in schema else [])
        kinds = {_TYPES.get(type(value), "object") for value in values}
    # Every integer is a number, so the two never tell alternatives apart.
    return {"number" if kind == "integer" else kind for kind in kinds}
