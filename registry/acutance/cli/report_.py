"""``acutance report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from acutance.cli.plugin_option import plugin_option

if TYPE_CHECKING:
    from acutance.run.directory import RunDirectory


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
@plugin_option
@click.option(
    "--figure",
    "figures",
    multiple=True,
    metavar="RECIPE",
    help="Draw only these figures; no page. 'acutance list figures' names them.",
)
def command(directory: Path, figures: tuple[str, ...]) -> None:
    """Draw the figures and write the HTML page of the run in DIRECTORY again; needs neither torch nor models."""
    from acutance.cli.screen import echo
    from acutance.run.directory import RunDirectory
    from acutance.run.outputs import write_figures, write_markup, write_report
    from acutance.run.store import Store
    from acutance.workflows.stored import write_run

    folder = RunDirectory(directory)
    _say_what_is_missing(folder, figures)
    if figures:
        for path in write_figures(folder, figures, _note):
            echo(str(path))
        return
    cost: dict[str, float] = {}
    if not folder.holds_statistics:  # nobody knows what a table made elsewhere took
        store = Store(folder.store, write=False)
        try:
            cost = store.cost()
            # Tables of a run that has ended have its broken models too, which no store has.
            going_on = store.last_run()[2] == "running" or not folder.has("results")
            if going_on and write_run(store, folder) is not None:
                _note("the run has not ended: tables and page are of what it has stored so far")
        finally:
            store.close()
    write_markup(folder)
    echo(f"report: {write_report(folder, cost, _note)}")


def _say_what_is_missing(folder: RunDirectory, wanted: tuple[str, ...]) -> None:
    """Say which figures of the run's plugins of one file cannot be drawn: none is run that was not given."""
    from acutance.plugins import catalog
    from acutance.run.directory import ENVIRONMENT

    if not (folder.path / ENVIRONMENT).is_file():  # a sweep
        return
    known = {item.name for item in catalog().items("figures")}
    for name, path in folder.environment().get("plugin_figures", {}).items():
        if name not in known and (not wanted or name in wanted):
            _note(f"figure '{name}' is left out: its plugin is named by the study, give it with --plugin '{path}'")


def _note(sentence: str) -> None:
    from acutance.cli.screen import echo

    echo(f"note: {sentence}", err=True)
