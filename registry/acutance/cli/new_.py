"""``acutance new``."""

from __future__ import annotations

from pathlib import Path

import click

from acutance import scaffold


@click.command("new")
@click.argument("kind", type=click.Choice(list(scaffold.KINDS)))
@click.argument("name")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=".", help="Folder to make it in.")
@click.option("--dist", help="Name of the distribution and of its folder; acutance-NAME by default.")
@click.option("--needs", type=click.Choice(list(scaffold.NEEDS)), help="What a measure asks for as well.")
def command(kind: scaffold.NewKind, name: str, directory: Path, dist: str | None, needs: str | None) -> None:
    """Write a package with one measure, pool or dataset called NAME: complete, with tests that pass."""
    package = scaffold.prepare(kind, name, directory, dist, needs=needs or "")
    scaffold.write(package)
    click.echo(f"wrote {package.folder} with {package.id}:")
    for path in package.files:
        click.echo(f"  {path}")
    click.secho("next", bold=True)
    for line in package.commands():
        click.echo(f"  {line}")
