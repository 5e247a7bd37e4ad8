"""``acutance run``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from acutance.study.config import load_config


@click.command("run")
@click.argument("config")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; runs/<name> by default.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value, e.g. surface.m=64.")
@click.option("--device", help="cpu, cuda, cuda:1 ...; the GPU when there is one.")
@click.option("--executor", help="Replace the study's executor: serial, processes ...")
@click.option("--sink", "sinks", multiple=True, metavar="NAME", help="One more sink that values go to: jsonl ...")
@click.option(
    "--rerun",
    type=click.Choice(["missing", "failed", "all"]),
    default="missing",
    show_default=True,
    help="What to compute again.",
)
@click.option("--limit", type=click.IntRange(1), help="At most this many models of each pool.")
@click.option("--attributes", type=click.Path(path_type=Path), help="CSV of more attributes; column model or id.")
@click.option("--allow-download", is_flag=True, help="Let data sets and pools download what is missing.")
@click.option("--no-report", is_flag=True, help="Write tables only.")
@click.option("--quiet", is_flag=True, help="Print nothing but what failed.")
def command(
    config: str,
    out: Path | None,
    overrides: tuple[str, ...],
    executor: str | None,
    sinks: tuple[str, ...],
    allow_download: bool,
    no_report: bool,
    quiet: bool,
    **settings: Any,
) -> int:
    """Run or resume CONFIG, a preset or a YAML file; what is stored is never computed again."""
    study = load_config(config, overrides, executor=executor, sinks=sinks)
    from acutance.cli.results_ import print_summary
    from acutance.cli.screen import console as wide_console
    from acutance.cli.verdicts_ import print_verdicts
    from acutance.io.downloads import allowing
    from acutance.run.directory import RunDirectory
    from acutance.run.harness import run_study
    from acutance.run.statistics import judged
    from acutance.system.progress import reporter

    console, start = wide_console(), time.monotonic()
    with allowing(allow_download), reporter(console, quiet) as shown:
        run = run_study(study, out, reporter=shown, report=not no_report, **settings)
    if not quiet:
        print_summary(run.correlations, console)
        admitted = int(run.models["admitted"].sum())
        console.print(
            f"\n{admitted} of {len(run.models)} models compared, {run.computed} cells computed in "
            f"{time.monotonic() - start:.1f} s, {run.failed} without a number",
            highlight=False,
        )
        console.print(f"tables: {run.directory}/results.csv, correlations.csv, models.csv", soft_wrap=True)
        if not no_report:
            console.print(f"report: {run.report}", soft_wrap=True)
        print_verdicts(judged(RunDirectory(run.directory)), console)
    if run.failed:
        where = f"{run.directory}/results.csv and models.csv say why"
        click.echo(f"{run.failed} without a number: {where}; exit status 1", err=True)
    return 1 if run.failed else 0
