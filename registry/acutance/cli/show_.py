"""``acutance show``."""

from __future__ import annotations

import inspect
from typing import Any

import click

from acutance.cli import as_json
from acutance.errors import UserError, did_you_mean
from acutance.plugins import KINDS, Item, catalog


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
    names = [item.name for kind in KINDS for item in catalog().items(kind)]
    raise UserError(f"nothing is called '{name}'", did_you_mean(name, names))


@click.command("show")
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(name: str, json_: bool) -> None:
    """Show what NAME is: its doc, formula, settings, traits and reference."""
    item = find(name)
    about = describe(item)
    if json_:
        as_json(about)
        return
    click.secho(f"{item.id} {item.version}", bold=True, nl=False)
    click.echo(f"  ({item.kind.removesuffix('s')})\n")
    click.echo(about["doc"] + "\n")
    if about["fields"]:
        click.secho("Settings", bold=True)
        for field in about["fields"]:
            default = "required" if field["required"] else f"default {field['default']!r}"
            click.echo(f"  {field['name']}: {field['type']}, {default}\n      {field['doc']}")
    for key, value in about["traits"].items():
        click.echo(f"{key}: {value}")


def describe(item: Item) -> dict[str, Any]:
    """Return all that is known of an item, as JSON values."""
    target = item.target
    if item.kind == "scalings":
        from importlib import import_module

        module, _, name = str(target).partition(":")
        doc = inspect.getdoc(getattr(import_module(module), name)) or ""
        return {"id": item.id, "kind": item.kind, "version": item.version, "doc": doc, "fields": [], "traits": {}}
    fields = [
        {
            "name": name,
            "type": str(field.annotation).replace("typing.", "") if not isinstance(field.annotation, type)
            else field.annotation.__name__,
            "required": field.is_required(),
            "default": None if field.is_required() else field.default,
            "constraints": [str(c) for c in field.metadata],
            "doc": field.description or "",
        }
        for name, field in target.Spec.model_fields.items()
    ]  # fmt: skip
    traits: dict[str, Any] = {}
    if item.kind == "measures":
        t = target.traits
        traits = {
            "level": t.level,
            "larger means": t.larger_means,
            "needs": ", ".join(sorted(t.needs)),
            "stochastic": t.stochastic,
            "invariant to": ", ".join(sorted(t.invariant_to)) or "nothing declared",
            "reference": t.reference or "-",
            "version": target.version,
        }
    elif item.kind == "datasets":
        traits = {"splits": ", ".join(target.splits)}
    doc = inspect.getdoc(target) or ""
    return {"id": item.id, "kind": item.kind, "version": item.version, "doc": doc, "fields": fields, "traits": traits}
