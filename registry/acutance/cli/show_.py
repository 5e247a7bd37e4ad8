"""``acutance show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.cli.describing import cost_line, describe, nothing_to_cite, yaml_text
from acutance.cli.plugin_option import plugin_option
from acutance.errors import UserError
from acutance.plugins import KINDS, Item, catalog

if TYPE_CHECKING:
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
@plugin_option
@click.argument("name")
@click.option("--bibtex", is_flag=True, help="Print the BibTeX entries of a measure, and nothing else.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(name: str, bibtex: bool, json_: bool) -> None:
    """Show what NAME is: its doc, formula, settings, traits, cost, an example of its use, what to cite."""
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
            default = "required" if field["required"] else yaml_text(field["default"])
            table.add_row(*map(Text, (field["name"], field["type"], default, readable(field["doc"]))))
        console.print(table)
    if about["traits"]:
        heading("Traits")
        table = Table(box=None, padding=(0, 2), show_header=False, pad_edge=True)
        for key, value in about["traits"].items():
            table.add_row(Text(key), Text(str(value)))
        console.print(table)
    if about["cost"]:
        console.print(Text("\n" + cost_line(about)))
    if about["example"]:
        heading("Use")
        for line in about["example"]:
            console.print(Text(f"  {line}"), soft_wrap=True)
    if item.kind == "measures":
        citation = f"To cite it: acutance show {catalog().names(item)[0]} --bibtex"
        console.print(Text("\n" + (citation if about["bibtex"] else nothing_to_cite(item))))
