"""``acutance report``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Draw the figures and write the HTML page of the run in DIRECTORY again; needs neither torch nor models."""
    from acutance.outputs import write_report
    from acutance.store import FILE, Store

    store = Store(directory / FILE, write=False)
    try:
        click.echo(f"report: {write_report(directory, store)}")
    finally:
        store.close()
