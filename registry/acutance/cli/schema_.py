"""``acutance schema``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from acutance.cli.plugin_option import plugin_option
from acutance.io.written import put_file
from acutance.plugins import catalog
from acutance.study.schema import study_schema

FILE = "acutance.schema.json"


@click.command("schema")
@plugin_option
@click.option(
    "--write",
    "path",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=FILE,
    metavar="[PATH]",
    help=f"Write it to a file, ./{FILE} by default, and print the line that makes an editor use it.",
)
def command(path: Path | None) -> None:
    """Print the JSON schema of the study file, with every installed measure, pool, dataset and executor."""
    text = json.dumps(study_schema(catalog()), indent=1)
    if path is None:
        click.echo(text)
        return
    if path.is_dir():
        path /= FILE
    put_file(path, text + "\n")
    here = path.resolve().parent == Path.cwd()
    click.echo(f"wrote {path}: write it again when a plugin is installed or changed")
    click.echo(
        f"as the first line of a study {'in this folder' if here else 'anywhere'}, for completion in the editor:"
    )
    click.echo(f"# yaml-language-server: $schema={path.name if here else path.resolve()}")
