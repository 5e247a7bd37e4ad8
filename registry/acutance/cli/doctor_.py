"""``acutance doctor``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from acutance.cli import as_json
from acutance.cli.screen import in_bytes
from acutance.doctor import health
from acutance.io.migrations import SCHEMA_VERSION
from acutance.plugins import Catalog, PluginInfo, catalog
from acutance.system.environment import environment


@click.command("doctor")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.option("--verbose", is_flag=True, help="Show the tracebacks of plugin problems.")
@click.pass_context
def command(ctx: click.Context, directory: Path | None, json_: bool, verbose: bool) -> int:
    """Report versions, devices, plugins with their load times, and everything that is wrong.

    With DIRECTORY, a run directory, also the state of its store.
    """
    from acutance.doctor.run_health import examine

    plugins = catalog()
    plugins.import_all()
    run = examine(directory) if directory is not None else None
    about = examination(plugins, run)
    if json_:
        as_json(about)
    else:
        _print(about, plugins, verbose)
    strict = (ctx.obj or {}).get("strict", False)
    return 3 if plugins.problems and strict else 0


def examination(plugins: Catalog, run: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return everything that doctor knows, as JSON values; ``problems`` are the sentences that need reading."""
    libraries = [health.library(name) for name in health.LIBRARIES]
    gpus, cache = health.gpus(), health.cache()
    about = environment(plugins) | {
        "store_schema": SCHEMA_VERSION,
        "imports": libraries,
        "cuda": gpus,
        "cache": cache,
        "loading": [
            {"plugin": p.plugin, "dist": p.dist, "seconds": p.seconds, "phases": dict(p.phases), "heavy": list(p.heavy)}
            for p in plugins.plugins
        ],
        "run": run,
    }
    about["problems"] = [
        *map(str, plugins.problems),
        *(f"{lib['name']}: {lib['problem']}" for lib in libraries if lib["problem"]),
        *filter(None, (gpus["problem"], cache["problem"])),
        *health.stale_metadata(),
        *health.shadowed(),
        *(run["problems"] if run else ()),
    ]
    return about


def _print(about: dict[str, Any], plugins: Catalog, verbose: bool) -> None:
    click.echo(f"acutance {about['acutance']}, Python {about['python']}, store schema {SCHEMA_VERSION}")
    click.echo(f"{about['platform']}, {about['processor']}, {about['cores']} cores")
    for line in _gpu_lines(about["cuda"]):
        click.echo(line)
    click.echo(f"cache: {about['cache']['folder']}, {in_bytes(about['cache']['free'])} free")
    click.secho("libraries", bold=True)
    for lib in about["imports"]:
        click.echo(f"  {lib['name']:<14}{lib['version']:<16}{'see below' if lib['problem'] else 'ok'}")
    click.secho("plugins", bold=True)
    width = max((len(f"{p.dist} {p.version}") for p in plugins.plugins), default=0)
    for p in plugins.plugins:
        click.echo(f"  {p.plugin:<14}{f'{p.dist} {p.version}':<{width}}  {_times(p)}")
    if about["run"]:
        _print_run(about["run"])
    if verbose:
        for problem in plugins.problems:
            click.secho(f"{problem.plugin} of {problem.dist} {problem.version}", bold=True)
            click.echo(problem.traceback)
    click.secho("problems" if about["problems"] else "no problems", bold=True)
    for sentence in about["problems"]:
        click.secho(f"  {sentence}", fg="red")


def _times(p: PluginInfo) -> str:
    phases = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in p.phases.items())
    heavy = f"; imports {', '.join(p.heavy)} at import time" if p.heavy else ""
    return f"{p.seconds * 1000:5.1f} ms ({phases}){heavy}"


def _gpu_lines(cuda: dict[str, Any]) -> list[str]:
    build = f"torch is built for CUDA {cuda['cuda']}" if cuda["cuda"] else "torch is built for the CPU"
    driver = f", driver {cuda['driver']}" if cuda["driver"] else ""
    if not cuda["devices"]:
        return [f"GPUs: none ({build}{driver})"]
    devices = [f"  {d['name']}, {in_bytes(d['memory'])}, capability {d['capability']}" for d in cuda["devices"]]
    return [f"GPUs: {len(devices)} ({build}{driver})", *devices]


def _print_run(run: dict[str, Any]) -> None:
    click.secho(f"run {run['path']}", bold=True)
    schema, integrity = run.get("schema", "unknown"), run.get("integrity", "unknown")
    click.echo(f"  {in_bytes(run['bytes'])}, schema {schema}, integrity {integrity}")
    if "cells" not in run:
        return
    cells = ", ".join(f"{n} {state}" for state, n in run["cells"].items())
    click.echo(f"  {run['models']} models, {sum(run['cells'].values())} cells" + (f" ({cells})" if cells else ""))
    if run["run"]:
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["run"]["started"]))
        click.echo(f"  run {run['run']['number']}, started {started}: {run['run']['state']}")
    if run["writer"]:
        click.echo(f"  being written by {run['writer']}")
