"""All that is known of something installed, for ``acutance show`` and for the pages of the documentation."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from acutance.plugins import Item, catalog
from acutance.references import entries
from acutance.report.recipes import ANY
from acutance.spec import Shown

if TYPE_CHECKING:
    from collections.abc import Sequence


def nothing_to_cite(item: Item) -> str:
    """Return why there is no BibTeX entry, in one sentence."""
    kind = item.kind.removesuffix("s")
    if kind != "measure":
        return f"{item.id} is {'an' if kind[0] in 'aeiou' else 'a'} {kind}: only measures name works to cite."
    where = item.target.traits.reference
    return f"{item.id} has no work to cite" + (
        f": its definition is {where}." if where else ", and no reference either."
    )


def describe(item: Item) -> dict[str, Any]:
    """Return all that is known of an item, as JSON values."""
    target = item.target
    about: dict[str, Any] = {"id": item.id, "kind": item.kind, "version": item.version, "doc": "", "fields": []}
    about |= {"traits": {}, "cost": {}, "example": [], "bibtex": []}
    if item.kind == "scalings":
        from importlib import import_module

        module, _, name = str(target).partition(":")
        about["doc"] = inspect.getdoc(getattr(import_module(module), name)) or ""
        return about
    about["doc"] = inspect.getdoc(target) or ""
    if item.kind == "figures":
        about["traits"] = {
            "of the paper": ", ".join(target.paper) or "-",
            "of sweeps over": {"": "-", ANY: "any setting"}.get(target.sweeps, target.sweeps),
            "on the page": target.page or "-",
        }
        about["example"] = [f"acutance report DIR --figure {catalog().names(item)[0]}"]
        return about
    if item.kind == "statistics":
        about["traits"] = {"table": f"{item.name}.csv"}
        about["example"] = [f"acutance results DIR --table {item.name}"]
        return about
    about["fields"] = [
        {
            "name": name,
            "type": type_text(field.annotation, field.metadata),
            "required": field.is_required(),
            "default": None if field.is_required() else field.default,
            "constraints": [str(c) for c in field.metadata if not isinstance(c, Shown)],
            "estimation": any(isinstance(c, Shown) and c.estimation for c in field.metadata),
            "doc": field.description or "",
        }
        for name, field in target.Spec.model_fields.items()
    ]
    if item.kind == "measures":
        t = target.traits
        about["traits"] = {
            "level": t.level,
            "larger means": t.larger_means,
            **({"better": t.better} if t.better else {}),
            "needs": ", ".join(sorted(t.needs)),
            "stochastic": t.stochastic,
            "invariant to": ", ".join(sorted(t.invariant_to)) or "nothing declared",
            "reference": t.reference or "-",
            "version": target.version,
        }
        about["cost"] = cost(item)
        about["bibtex"] = entries(t.bibtex)
    elif item.kind == "datasets":
        splits = target.splits
        about["traits"] = {"splits": ", ".join(splits) if isinstance(splits, tuple) else "as its settings say"}
    about["example"] = example(item)
    return about


_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a field's type as a reader says it: ``float > 0``, ``l2 | linf``, ``list of int > 0``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(args[0], [*args[1:], *metadata])
    if origin is Literal:
        text = " | ".join(yaml_text(value) for value in args)
    elif origin in (Union, types.UnionType):
        text = " | ".join(type_text(arg) for arg in args)
    elif origin in (tuple, list):
        text = f"list of {type_text(args[0])}"
    else:
        text = {"NoneType": "null", "str": "text"}.get(name := getattr(annotation, "__name__", str(annotation)), name)
    bounds = [
        f"{sign} {getattr(rule, key):g}" for rule in metadata for key, sign in _BOUNDS.items() if hasattr(rule, key)
    ]
    return f"{text} {', '.join(bounds)}".strip()


def yaml_text(value: Any) -> str:
    """Return a value as it is written in a study."""
    import json

    if isinstance(value, str) and value and value.isidentifier():
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False, default=str)


def example(item: Item) -> list[str]:
    """Return how the thing is used, in Python and in a study, with a value for each required setting."""
    fields = _required(item)
    try:
        item.target.Spec.model_validate(fields)
        values = {name: (yaml_text(value), repr(value)) for name, value in fields.items()}
    except ValidationError:
        # No guess at what its author has in mind.
        values = dict.fromkeys(fields, ("...", "..."))
    called = catalog().names(item)[0]
    section = f"{{name: {called}{''.join(f', {name}: {yaml}' for name, (yaml, _) in values.items())}}}"
    if item.kind != "measures":
        several = item.kind in ("pools", "sinks")
        return [f"{item.kind}: [{section}]" if several else f"{item.kind.removesuffix('s')}: {section}"]
    level = item.target.traits.level
    if level == "pool":
        return ["measures:", f"  - {section}"]
    data = {"batch": ", (inputs, targets), m=128", "dataset": ", (inputs, targets)", "weights": ""}[level]
    arguments = "".join(f", {name}={python}" for name, (_, python) in values.items())
    return [f'acutance.measure("{called}", model{data}{arguments})', "measures:", f"  - {section}"]


def _required(item: Item) -> dict[str, Any]:
    """Return plausible values of the settings that have no default."""
    return {name: _some(f.annotation) for name, f in item.target.Spec.model_fields.items() if f.is_required()}


def cost(item: Item) -> dict[str, float]:
    """Return what a measure costs at its defaults: passes, and vectors of the weights' size held beside them.

    Passes are over one m-batch, or over all points where ``traits.level`` is ``dataset`` or ``pool``. Empty where
    nothing can be said without settings that its author has in mind.
    """
    try:
        spec = item.target.Spec.model_validate(_required(item))
    except ValidationError:
        return {}
    measure = item.target()
    passes = measure.passes(spec)
    work = {"forwards": passes.forwards, "backwards": passes.backwards, "hvps": passes.hvps}
    return work | {"vectors": measure.vectors(spec)}


def cost_line(about: dict[str, Any]) -> str:
    """Return the cost of a measure in one sentence."""
    counts, level = about["cost"], about["traits"]["level"]
    names = {"forwards": "forward", "backwards": "backward", "hvps": "Hessian-vector product"}
    work = [f"{counts[key]:g} {name}{'' if counts[key] == 1 else 's'}" for key, name in names.items() if counts[key]]
    over = "each m-batch" if level == "batch" else "all points"
    passes = f"{', '.join(work)} over {over}" if work else "no pass over the points"
    vectors = counts["vectors"]
    beside = f"{vectors:g} vector{'' if vectors == 1 else 's'}" if vectors else "no vector"
    return f"Cost at the defaults: {passes}; {beside} of the weights' size beside the weights."


def _some(annotation: Any) -> Any:
    """Return a plausible value of a type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _some(args[0])
    if origin is Literal or origin in (Union, types.UnionType):
        return args[0] if origin is Literal else _some(args[0])
    if origin in (tuple, list):
        return [_some(args[0])]
    return {bool: True, int: 1, float: 0.1}.get(annotation, "...")
