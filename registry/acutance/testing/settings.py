"""Settings to try: values for required fields, and neighbours of a spec that differ in one field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from acutance.errors import UserError
from acutance.spec import Spec, validate

# Tried in this order; the first that the field takes. Small ones first: most required numbers are radii.
CANDIDATES: tuple[Any, ...] = (0.05, 0.5, 1.0, 2, 3, 10, 100, -1.0, True, (0.05, 0.1), (1, 2))
MAX_NEIGHBOURS = 8


def specs_of(spec_type: type[Spec], settings: Any, name: str) -> list[Spec]:
    """Return the specs to test.

    Args:
        spec_type: the item's spec class.
        settings: a mapping of settings, a Spec, a list of either, or None.
        name: of the item, for messages.

    Raises:
        UserError: for wrong settings, or a required field for which no value can be derived.
    """
    several = [settings] if settings is None or isinstance(settings, Mapping | Spec) else settings
    if not isinstance(several, Sequence) or isinstance(several, str) or not several:
        raise UserError("spec: give a mapping of settings, or a list of mappings")
    return [_one(spec_type, entry, name) for entry in several]


def _one(spec_type: type[Spec], settings: Any, name: str) -> Spec:
    """Return the spec of some settings, with values derived for the required fields that they leave out."""
    if isinstance(settings, Spec):
        return settings
    if settings is not None and not isinstance(settings, Mapping):
        raise UserError(f"spec: {settings!r} is not a mapping of settings", "write spec={'field': value}")
    values = dict(settings or {})
    derived = {
        field: example(field, info, name)
        for field, info in spec_type.model_fields.items()
        if info.is_required() and field not in values
    }
    try:
        return validate(spec_type, derived | values, name)
    except UserError as error:
        if derived:
            raise UserError(f"{error.message} (with {derived} derived by the kit)", "pass spec={...}") from None
        raise


def example(name: str, field: FieldInfo, owner: str) -> Any:
    """Return a value that a required field takes.

    Raises:
        UserError: when none can be guessed.
    """
    annotation: Any = field.annotation
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[annotation, *field.metadata] if field.metadata else annotation)
    for value in choices or CANDIDATES:
        try:
            return adapter.validate_python(value, strict=isinstance(value, bool) or None)
        except ValidationError:
            continue
    raise UserError(
        f"no value can be derived for the required field '{name}' of {owner}", f"pass spec={{'{name}': ...}}"
    )


def neighbours(spec: Spec) -> list[Spec]:
    """Return specs that differ from this one in one field: another radius, another choice, a switch turned."""
    fields, specs = type(spec).model_fields, []
    for name, field in fields.items():
        value = getattr(spec, name)
        annotation = field.annotation
        others: list[Any] = []
        if isinstance(value, bool):
            others = [not value]
        elif get_origin(annotation) is Literal:
            others = [choice for choice in get_args(annotation) if choice != value]
        elif isinstance(value, float):
            others = [2 * value]
        specs += [other for choice in others if (other := changed(spec, {name: choice})) is not None]
    return specs[:MAX_NEIGHBOURS]


def changed(spec: Spec, values: Mapping[str, Any]) -> Spec | None:
    """Return a spec with some fields changed, or None when the combination is refused."""
    explicit = {name: getattr(spec, name) for name in spec.model_fields_set}
    try:
        return type(spec).model_validate(explicit | dict(values))
    except ValidationError:
        return None


def at_defaults(spec: Spec) -> Spec:
    """Return a spec with the same required fields and everything else at its default: what traits describe."""
    fields = type(spec).model_fields
    plain = {name: getattr(spec, name) for name, field in fields.items() if field.is_required()}
    return type(spec).model_validate(plain)


def far(spec: Spec, factor: float = 1e8) -> Spec | None:
    """Return a spec whose required real numbers (radii, as a rule) are huge; None when it has none."""
    fields = type(spec).model_fields
    radii = {
        name: getattr(spec, name) * factor
        for name, field in fields.items()
        if field.is_required() and isinstance(getattr(spec, name), float)
    }
    return changed(spec, radii) if radii else None
