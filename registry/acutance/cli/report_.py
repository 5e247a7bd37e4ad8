"""``acutance report``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--figure", "figures", multiple=True, metavar="RECIPE", help="Draw only these figures; no page.")
def command(directory: Path, figures: tuple[str, ...]) -> None:
    """Draw the figures and write the HTML page of the run in DIRECTORY again; needs neither torch nor models."""
    from acutance.cli.screen import echo
    from acutance.correlating import is_of_table
    from acutance.outputs import write_figures, write_report
    from acutance.store import FILE, Store

    if figures:
        for path in write_figures(directory, figures):
            echo(str(path))
        return
    if is_of_table(directory):
        echo(f"report: {write_report(directory, {})}")  # of a table made elsewhere
        return
    store = Store(directory / FILE, write=False)
    try:
        echo(f"report: {write_report(directory, store.cost())}")
    finally:
        store.close()
