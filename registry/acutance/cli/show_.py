"""``acutance show``."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import ValidationError

from acutance.cli import as_json
from acutance.errors import UserError
from acutance.plugins import KINDS, Item, catalog
from acutance.references import entries
from acutance.report.recipes import ANY
from acutance.spec import Shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


def find(name: str) -> Item:
    """Return what a name means, whatever its kind; measures win.

    Raises:
        UserError: when nothing has that name.
    """
    for kind in KINDS:
        try:
            return catalog().find(kind, name)
        except UserError as error:
            if "ambiguous" in error.message:
                raise
    raise UserError(f"nothing is called '{name}'", catalog().nearest(name))


@click.command("show")
@click.argument("name")
@click.option("--bibtex", is_flag=True, help="Print the BibTeX entries of a measure, and nothing else.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(name: str, bibtex: bool, json_: bool) -> None:
    """Show what NAME is: its doc, formula, settings, traits, an example of its use, what to cite."""
    item = find(name)
    about = describe(item)
    if json_:
        as_json(about)
    elif bibtex:
        if about["bibtex"]:
            click.echo("\n\n".join(about["bibtex"]))
        else:
            # Not among the entries: the output may go straight into a .bib file.
            click.echo(nothing_to_cite(item), err=True)
    else:
        from acutance.cli.screen import console

        _print(item, about, console())


def _print(item: Item, about: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from acutance.cli.formula import readable

    def heading(text: str) -> None:
        console.print(Text("\n" + text, "bold"))

    console.print(Text(f"{item.id} {item.version}", "bold") + Text(f"  ({item.kind.removesuffix('s')})\n", "not bold"))
    console.print(Text(readable(about["doc"])))
    if about["fields"]:
        heading("Settings")
        table = Table(box=None, padding=(0, 2), show_header=False, pad_edge=True)
        for field in about["fields"]:
            default = "required" if field["required"] else _yaml(field["default"])
            table.add_row(*map(Text, (field["name"], field["type"], default, readable(field["doc"]))))
        console.print(table)
    if about["traits"]:
        heading("Traits")
        table = Table(box=None, padding=(0, 2), show_header=False, pad_edge=True)
        for key, value in about["traits"].items():
            table.add_row(Text(key), Text(str(value)))
        console.print(table)
    if about["example"]:
        heading("Use")
        for line in about["example"]:
            console.print(Text(f"  {line}"), soft_wrap=True)
    if item.kind == "measures":
        citation = f"To cite it: acutance show {catalog().names(item)[0]} --bibtex"
        console.print(Text("\n" + (citation if about["bibtex"] else nothing_to_cite(item))))


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
    about |= {"traits": {}, "example": [], "bibtex": []}
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
        text = " | ".join(_yaml(value) for value in args)
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


def _yaml(value: Any) -> str:
    """Return a value as it is written in a study."""
    import json

    if isinstance(value, str) and value and value.isidentifier():
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False, default=str)


def example(item: Item) -> list[str]:
    """Return how the thing is used, in Python and in a study, with a value for each required setting."""
    fields = {name: _some(f.annotation) for name, f in item.target.Spec.model_fields.items() if f.is_required()}
    try:
        item.target.Spec.model_validate(fields)
        values = {name: (_yaml(value), repr(value)) for name, value in fields.items()}
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
