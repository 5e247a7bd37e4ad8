"""Specs and identity: what a result is a result *of*, in one file.

A spec is plain: scalar fields, frozen, closed. Two specs are the same computation exactly when their
canonical JSON is the same, so a changed default or a new field never changes the key of a value that was
computed before it existed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from acutance.errors import UserError, did_you_mean
from acutance.own_code import named

MOST = 100_000  # models of a pool, m-batches, settings of a measure: what a study can still be made of

Size = Annotated[int, Field(gt=0, le=MOST)]


@dataclass(frozen=True)
class Shown:
    """How a field of a measure's spec is shown in names of definitions; made by ``labelled`` and ``estimation``.

    Attributes:
        words: pairs (value, what a label writes for it); other values are written as they are.
        adds: what stands behind the label where the value is not the default, a template like the label itself.
        always: whether that stands there at the default too.
        estimation: whether the field says how a value is estimated, not what is estimated.
    """

    words: tuple[tuple[str, str], ...] = ()
    adds: str = ""
    always: bool = False
    estimation: bool = False


def labelled(words: Mapping[str, str] | None = None, *, adds: str = "", always: bool = False) -> Shown:
    """Mark a field that says what is estimated, and how labels write it.

    As in ``norm: Annotated[Literal["l1", "l2"], labelled({"l1": "L1", "l2": "L2"})] = "l2"``.

    Args:
        words: what a label writes for a value, by the value as text (``true`` for True).
        adds: a template that stands behind the label where the value is not the default: ``", p = {p}"``. One that
            does not begin with a comma stands directly behind the label.
        always: whether ``adds`` stands there at the default too.
    """
    return Shown(tuple((words or {}).items()), adds, always)


def estimation(words: Mapping[str, str] | None = None, *, adds: str = "") -> Shown:
    """Mark a field that says how a value is estimated, not what.

    As in ``steps: Annotated[PositiveInt, estimation()] = 20``. It does not tell the definitions of two tables apart
    where only one of them has it.

    Args:
        words: as for ``labelled``.
        adds: as for ``labelled``; it comes after what other fields add.
    """
    return Shown(tuple((words or {}).items()), adds, estimation=True)


class Strict(BaseModel):
    """Base of all settings: a truth value is ``true`` or ``false``, and neither of them is a number or a text."""

    @field_validator("*", mode="before")
    @classmethod
    def _true_or_false(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a truth value where a number or a text is wanted, and these where a truth value is."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)  # type: ignore[arg-type]
        if isinstance(value, bool):
            if kinds & {int, float, str} and bool not in kinds:
                raise ValueError(f"a {'number' if kinds & {int, float} else 'text'} is wanted here")
        elif bool in kinds and not kinds & {int, float, str}:
            if isinstance(value, int | float | str):
                raise ValueError("write true or false")
        return value


@cache
def _kinds(annotation: Hashable) -> frozenset[type]:
    """Return the plain types that a field may have; nothing for what is more than one value."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin is Literal:
        return frozenset(type(value) for value in get_args(annotation))
    if origin in (Union, UnionType):
        return frozenset().union(*map(_kinds, get_args(annotation)))
    return frozenset({annotation} if annotation in (bool, int, float, str) else ())


class Spec(Strict):
    """Base of every plugin's settings: frozen, closed, finite numbers only, a docstring under each field."""

    # Validators are built when a spec is first used: a command uses a few of all that are installed.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True,
        defer_build=True,
    )  # fmt: skip

    ABSENT: ClassVar[dict[str, str]] = {}
    """Fields that one could expect here, with the sentence that tells why there is none."""

    def canonical(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as JSON values: what enters a key."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def full(self) -> dict[str, Any]:
        """Return every field as JSON values: what is stored beside a result."""
        return self.model_dump(mode="json")


SpecT = TypeVar("SpecT", bound=Spec)


class Specified(Generic[SpecT]):
    """A class whose behaviour is set by a spec: ``class Mine(Measure[MySpec])`` makes ``Mine.Spec is MySpec``."""

    Spec: ClassVar[type[Spec]] = Spec

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Its own bases: an inherited list would undo a subclass's choice of another spec.
        for base in vars(cls).get("__orig_bases__", ()):
            origin, args = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, Specified) and args:
                if isinstance(args[0], type) and issubclass(args[0], Spec):
                    cls.Spec = args[0]


def canonical_json(value: Any) -> str:
    """Serialise to the one JSON text of a value: sorted keys, no spaces, shortest floats, ``-0.0`` as ``0.0``.

    Raises:
        ValueError: for NaN, infinities, and anything that is not plain JSON.
    """

    def plain(x: Any) -> Any:
        if isinstance(x, float):
            if not math.isfinite(x):
                raise ValueError(f"{x} has no canonical form")
            return x + 0.0
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [plain(v) for v in x]
        if x is None or isinstance(x, bool | int | str):
            return x
        raise ValueError(f"{type(x).__name__} has no canonical form")

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def joint(digests: list[str]) -> str:
    """Return the digest of several batches together."""
    return digest(digests)


def validate(spec_type: type[SpecT], values: dict[str, Any], where: str = "") -> SpecT:
    """Build a spec, turning pydantic's report into one sentence with the path of each mistake.

    Args:
        spec_type: the class to build.
        values: the fields as written by a user.
        where: path of these fields in the config, for the message.

    Raises:
        UserError: naming every field that is wrong, with the nearest field name for an unknown one.
    """
    try:
        return spec_type.model_validate(plain(values, where))
    except ValidationError as error:
        raise UserError("; ".join(describe(error, spec_type, where))) from None


def plain(value: Any, where: str = "") -> Any:
    """Return settings that were written in Python as plain data: numbers of NumPy and torch, dtypes, functions by name.

    Args:
        value: of mappings and lists; what is none of these stays.
        where: its place, for the message.

    Raises:
        UserError: for a function that has no name in a file.
    """
    if isinstance(value, Mapping):
        return {key: plain(inner, f"{where}.{key}".lstrip(".")) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, f"{where}.{i}".lstrip(".")) for i, inner in enumerate(value)]
    if isinstance(value, BaseModel) or value is None or type(value) in (str, int, float, bool):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1:
        return value.tolist()
    if type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if callable(value):
        try:
            return named(value)
        except UserError as error:
            raise UserError(f"{where}: {error.message}", error.hint) from None
    return value


def describe(error: ValidationError, spec_type: type[BaseModel], where: str = "") -> list[str]:
    """Return one ``path: message`` for each mistake of a pydantic report."""
    found: dict[str, list[str]] = {}  # of one place several, where a value may be written in several ways
    ends: dict[str, str] = {}
    for item in error.errors():
        # A part in angle brackets names a way of writing a value, not a place in the file.
        parts = [str(part) for part in _places(item["loc"], spec_type) if not str(part).startswith("<")]
        path = ".".join(([where] if where else []) + parts)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            fields = list(spec_type.model_fields) if len(item["loc"]) == 1 else []
            absent = getattr(spec_type, "ABSENT", {}) if len(item["loc"]) == 1 else {}
            why = absent.get(item["loc"][-1]) or (did_you_mean(str(item["loc"][-1]), fields) if fields else "")
            message = "unknown field" + (f"; {why}" if why else "")
        elif item["loc"] and item["loc"][-1] == "[key]":
            path = path.removesuffix(".[key]").rpartition(".")[0]
            message = (
                f"{shown(item['input'])} stands where a name is wanted: in braces a decimal comma parts a number in two"
            )
        elif item["type"] == "missing":
            info = spec_type.model_fields.get(str(item["loc"][-1])) if len(item["loc"]) == 1 else None
            meaning = (info.description or "").split(". ")[0].rstrip(".") if info else ""
            message += f" ({meaning})" if meaning else ""
        elif "input" in item and not isinstance(item["input"], dict):
            ends.setdefault(path, f", got {shown(item['input'])}{_instead(item['input'], item['type'])}")
        found.setdefault(path, []).append(message)
    return [
        (f"{path}: " if path else "")
        + " or ".join([first, *(other.removeprefix("Input should be ") for other in others if other != first)])
        + ends.get(path, "")
        for path, (first, *others) in found.items()
    ]


def _places(loc: Sequence[int | str], kind: Any) -> list[int | str]:
    """Return the place of a mistake without pydantic's names for the members of a union.

    Args:
        loc: names and indices, as pydantic has them.
        kind: the annotation of what they lie in.
    """
    members = [member for member in get_args(kind) if member is not type(None)]
    if not loc or kind is None:
        return list(loc)
    if get_origin(kind) in (Union, UnionType):
        return _places(loc, members[0]) if len(members) == 1 else list(loc[1:])
    if get_origin(kind) is Annotated:
        return _places(loc, members[0])
    inner: Any = None
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(loc[0]))
        inner = field.annotation if field is not None else None
    elif members and get_origin(kind) is not Literal:
        inner = members[-1] if isinstance(loc[0], str) else members[0]
    return [loc[0], *_places(loc[1:], inner)]


def _instead(value: Any, kind: str) -> str:
    """Return what to write in place of a word that was meant as a number, or as a section; empty where that is open."""
    if not isinstance(value, str):
        return ""
    if kind == "dict_type":
        return f": write {{name: {value}}}"
    if kind in ("float_parsing", "int_parsing"):
        if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", value):
            return f": write {value.replace(',', '.')}, with a decimal point"
        top, over, below = value.partition("/")
        if over and top.strip().isdigit() and below.strip().isdigit() and int(below):
            return f": write {int(top) / int(below):.6g}"
    return ""


def shown(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:80]} ... ({len(text)} characters)"


def scalar_fields(spec_type: type[Spec]) -> dict[str, FieldInfo]:
    """Return the fields of a spec class; a list given for one of them in a config is a sweep."""
    return dict(spec_type.model_fields)


def spec_faults(spec_type: type[Spec]) -> list[str]:
    """Return what is wrong with a plugin's spec class, one sentence a fault; empty when it is sound.

    A default made by a factory could change between runs and so change the meaning of a key, a mutable one
    during a run; a field without a docstring cannot be explained to a user.
    """
    faults = []
    for name, field in spec_type.model_fields.items():
        if field.default_factory is not None:
            faults.append(f"field '{name}' has a default_factory: give a plain default")
        elif not field.is_required() and not _hashable(field.default):
            faults.append(f"field '{name}' has a mutable default, {field.default!r}: use a tuple")
        if name == "rho" and str in _kinds(field.annotation):  # type: ignore[arg-type]
            faults.append("field 'rho' may be a text: a radius is a number, call another setting something else")
        if not field.description:
            faults.append(f"field '{name}' has no docstring under it")
    return faults


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def cell_key(
    *,
    measure: str,
    version: int,
    spec: Spec,
    model: str,
    data: str,
    surface: dict[str, Any],
    seed: int,
    replicate: int,
    batch: int | None = None,
    initial: str = "",
) -> str:
    """Return the identity of a value: the same key means the same value, on any machine, in any order.

    Device, executor, microbatch and package versions are not part of it; they are kept with each attempt.

    Args:
        measure: canonical id, ``dist/name``.
        version: the measure's version.
        spec: settings; only what differs from the defaults enters.
        model: key of the model, from its tensors.
        data: digest of the points after preprocessing: all batches of a cell, or the one of a part.
        surface: what else defines the loss surface: loss, dtype, free parameters, batch norm mode.
        seed: study seed.
        replicate: index of the independent repetition.
        batch: index of the m-batch for a part, None for the whole cell.
        initial: digest of the initial weights, for a measure that needs them and a model that has them.
    """
    fields = {"measure": measure, "version": version, "surface": surface, "seed": seed, "replicate": replicate}
    return KeyFrame(fields, spec).key(model, data, batch, initial)


class KeyFrame:
    """A cell's identity but for the model and the points, as JSON that is made once for all of them.

    A study of 10^5 cells asks for a million keys.

    Args:
        fields: ``measure``, ``version``, ``surface``, ``seed`` and ``replicate`` of ``cell_key``.
        spec: settings.
    """

    def __init__(self, fields: dict[str, Any], spec: Spec) -> None:
        # The text of the whole mapping, taken apart where the arguments of key() belong in the order of the keys.
        text = canonical_json(fields | {"spec": spec.canonical()})
        cut = text.index(',"replicate":')
        self._measure, self._rest = text[1:cut], text[cut:]

    def key(
        self,
        model: str,
        data: str,
        batch: int | None = None,
        initial: str = "",
        inputs: Mapping[str, str] | None = None,
    ) -> str:
        """Return the sha256 of the canonical JSON; the arguments are those of ``cell_key``.

        Args:
            model: key of the model.
            data: digest of the points.
            batch: index of the m-batch for a part.
            initial: digest of the initial weights.
            inputs: digests of what else the measure needs and finds, by the name of the need.
        """
        first = "" if batch is None else f'"batch":{batch},'
        start = f'"initial":{json.dumps(initial)},' if initial else ""
        start += f'"inputs":{canonical_json(dict(inputs))},' if inputs else ""
        text = f'{{{first}"data":{json.dumps(data)},{start}{self._measure},"model":{json.dumps(model)}{self._rest}'
        return hashlib.sha256(text.encode()).hexdigest()
