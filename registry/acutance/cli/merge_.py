"""``acutance merge``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("merge")
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new run directory.")
@click.option("--no-report", is_flag=True, help="Write tables only.")
def command(directories: tuple[Path, ...], out: Path, no_report: bool) -> int:
    """Merge the runs in DIRECTORIES, made of one study on several machines or for parts of its pools, into one."""
    from acutance.cli.screen import echo
    from acutance.workflows.merge import merge

    merged = merge(directories, out, report=not no_report)
    for conflict in merged.conflicts:
        echo(f"conflict: {conflict}", err=True)
    for note in merged.notes:
        echo(f"note: {note}")
    run = merged.run
    echo(
        f"{len(run.models)} models and {len(run.results)} cells of {len(directories)} runs in {out}, "
        f"{len(merged.conflicts)} conflicts, {run.failed} without a number"
    )
    return 1 if merged.conflicts or run.failed else 0
