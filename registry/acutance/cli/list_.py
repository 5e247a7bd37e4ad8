"""``acutance list``."""

from __future__ import annotations

import inspect
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from acutance.cli import as_json
from acutance.cli.plugin_option import plugin_option
from acutance.errors import UserError
from acutance.plugins import KINDS, Item, Kind, catalog

# A class or function whose header takes one line or two, and its docstring; any other is imported.
HEAD = r'^(?:class|def) {}\b[^\n]*(?:\n[^\n]*?)?:\n    r?"""(.*?)"""'


def summary(item: Item) -> str:
    """Return the first line of what an item says of itself."""
    doc = _docstring_in_text(item.source) if isinstance(item.source, str) else ""
    if not doc:
        try:
            doc = item.source if item.kind == "scalings" else item.target.__doc__ or ""
        except UserError as error:
            doc = error.message
    return doc.strip().splitlines()[0] if doc.strip() else ""


def _docstring_in_text(path: str) -> str:
    """Return the docstring of ``module:name`` from the text of the module, which is not run; empty where it has none.

    Reading a file takes a hundredth of the time that importing it does.
    """
    module, _, name = path.partition(":")
    try:
        spec = find_spec(module)
        text = Path(spec.origin).read_text() if spec and spec.origin else ""
    except (ImportError, OSError, UnicodeDecodeError):
        return ""
    match = re.search(HEAD.format(re.escape(name)), text, re.MULTILINE | re.DOTALL)
    return inspect.cleandoc(match[1]) if match else ""


@click.command("list")
@plugin_option
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(kind: Kind | None, json_: bool) -> None:
    """List what is installed of one KIND, measures or figures say; all of it without KIND."""
    kinds = [kind] if kind else list(KINDS)
    installed = {k: catalog().items(k) for k in kinds}
    if json_:
        as_json({k: [_row(item) for item in items] for k, items in installed.items()})
        return
    width = max((len(item.name) for items in installed.values() for item in items), default=0)
    origin = max((len(f"{i.dist} {i.version}") for items in installed.values() for i in items), default=0)
    for k, items in installed.items():
        if not kind:
            click.secho(k, bold=True)
        for item in items:
            click.echo(f"  {item.name:<{width}}  {f'{item.dist} {item.version}':<{origin}}  {summary(item)}")


def _row(item: Item) -> dict[str, Any]:
    return {"name": item.name, "id": item.id, "dist": item.dist, "version": item.version, "summary": summary(item)}
