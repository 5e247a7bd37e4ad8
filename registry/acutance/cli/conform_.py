"""``acutance conform``."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from acutance.cli import as_json
from acutance.cli.plugin_option import plugin_option
from acutance.plugins import catalog

if TYPE_CHECKING:
    from acutance.testing.core import Outcome

STYLES = {"passed": ("ok  ", "green"), "failed": ("FAIL", "red"), "skipped": ("skip", "yellow")}


@click.command("conform")
@plugin_option
@click.argument("name")
@click.option("--kind", type=click.Choice(["measure", "pool", "dataset", "executor"]), help="What NAME is.")
@click.option("--set", "fields", multiple=True, metavar="KEY=VALUE", help="Setting to test with, e.g. rho=0.01.")
@click.option("--surfaces", metavar="MODULE:NAME", help="Further surfaces to try a measure on, from your own module.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context, name: str, kind: str | None, fields: tuple[str, ...], surfaces: str | None, json_: bool
) -> int:
    """Hold NAME, a measure, pool, dataset or executor, against what the harness expects of it.

    Ends with 0 when everything passed or was skipped, with 1 when a check failed.
    """
    from acutance.io.checkpoints import parse_pairs
    from acutance.own_code import load
    from acutance.testing.core import examine, locate, plugin_modules_of

    plugins = catalog()
    item = locate(name, kind, plugins)
    settings = parse_pairs(fields, "--set") or None
    own_surfaces = load(surfaces) if surfaces else None
    own_surfaces = own_surfaces() if callable(own_surfaces) else own_surfaces
    examination = examine(item, spec=settings, surfaces=own_surfaces, plugin_modules=plugin_modules_of(item, plugins))
    specs = [spec.full() for spec in examination.subject.specs]
    outcomes = []
    if not json_:
        click.echo(f"{item.id} {item.version} ({item.kind.removesuffix('s')}), settings {specs[0]}")
    for outcome in examination.run():
        outcomes.append(outcome)
        if not json_:
            _print(outcome, bool((ctx.obj or {}).get("traceback")))
    count = Counter[str](outcome.state for outcome in outcomes)
    if json_:
        checks = [_row(outcome) for outcome in outcomes]
        totals = {state: count[state] for state in STYLES}
        as_json({"id": item.id, "kind": item.kind, "version": item.version, "specs": specs, **totals, "checks": checks})
    else:
        click.echo(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


def _print(outcome: Outcome, with_traceback: bool) -> None:
    label, colour = STYLES[outcome.state]
    click.secho(label, fg=colour, nl=False)
    click.echo(f"  {outcome.check.name.replace('_', ' ')}")
    texts = [outcome.message] if outcome.message else []
    for text in texts + [f"note: {note}" for note in outcome.notes]:
        click.echo(textwrap.fill(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6))
    if with_traceback and outcome.state == "failed":
        click.echo(outcome.traceback)


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.check.name, "description": outcome.check.description, "state": outcome.state,
        "message": outcome.message, "notes": outcome.notes, "seconds": outcome.seconds,
    }  # fmt: skip
