"""``acutance list``."""

from __future__ import annotations

from typing import Any

import click

from acutance.cli import as_json
from acutance.plugins import KINDS, OWN, Item, Kind, catalog


def summary(item: Item) -> str:
    """Return the first line of what an item says of itself."""
    if item.kind == "scalings":
        from importlib import import_module

        module, _, name = str(item.target).partition(":")
        # Our own strategies live in light modules; a stranger's is not imported for a list.
        doc = getattr(import_module(module), name).__doc__ if item.dist == OWN else item.target
    else:
        doc = item.target.__doc__
    return (doc or "").strip().splitlines()[0] if doc else ""


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(kind: Kind | None, json_: bool) -> None:
    """List measures, pools, datasets, executors or scalings; all of them without KIND."""
    kinds = [kind] if kind else list(KINDS)
    found = {k: catalog().items(k) for k in kinds}
    if json_:
        as_json({k: [_row(item) for item in items] for k, items in found.items()})
        return
    width = max((len(item.name) for items in found.values() for item in items), default=0)
    origin = max((len(f"{i.dist} {i.version}") for items in found.values() for i in items), default=0)
    for k, items in found.items():
        if not kind:
            click.secho(k, bold=True)
        for item in items:
            click.echo(f"  {item.name:<{width}}  {f'{item.dist} {item.version}':<{origin}}  {summary(item)}")


def _row(item: Item) -> dict[str, Any]:
    return {"name": item.name, "id": item.id, "dist": item.dist, "version": item.version, "summary": summary(item)}
