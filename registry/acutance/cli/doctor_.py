"""``acutance doctor``."""

from __future__ import annotations

import sys
from typing import Any

import click

from acutance.cli import as_json
from acutance.environment import environment
from acutance.plugins import catalog
from acutance.store import SCHEMA_VERSION


@click.command("doctor")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.option("--verbose", is_flag=True, help="Show the tracebacks of plugin problems.")
@click.pass_context
def command(ctx: click.Context, json_: bool, verbose: bool) -> int:
    """Report versions, devices, plugins with their load times, and everything that is wrong."""
    plugins = catalog()
    libraries = [library(name) for name in ("torch", "torchvision", "timm", "transformers", "numba")]
    about = environment(plugins)
    problems = [f"{p}" for p in plugins.problems] + [lib["problem"] for lib in libraries if lib["problem"]]
    if json_:
        as_json({**about, "store_schema": SCHEMA_VERSION, "imports": libraries, "problems": problems})
    else:
        _print(about, libraries, plugins, verbose)
    strict = (ctx.obj or {}).get("strict", False)
    return 3 if plugins.problems and strict else 0


def _print(about: dict[str, Any], libraries: list[dict[str, str]], plugins: Any, verbose: bool) -> None:
    click.echo(f"acutance {about['acutance']}, Python {about['python']}, store schema {SCHEMA_VERSION}")
    click.echo(f"{about['platform']}, {about['processor']}, {about['cores']} cores")
    click.echo("GPUs: " + (", ".join(about["gpus"]) or "none"))
    for lib in libraries:
        click.echo(f"  {lib['name']:<14}{lib['version']:<16}{lib['problem'] or 'ok'}")
    click.secho("plugins", bold=True)
    for p in plugins.plugins:
        slow = f", imports {', '.join(p.heavy)} at import time" if p.heavy else ""
        click.echo(f"  {p.plugin:<14}{p.dist} {p.version}  {p.seconds * 1000:.0f} ms{slow}")
    for problem in plugins.problems:
        click.secho(f"  {problem}", fg="red")
        if verbose:
            click.echo(problem.traceback)
    if not plugins.problems:
        click.echo("no plugin problems")


def library(name: str) -> dict[str, str]:
    """Return whether a library imports, and what to do when it does not."""
    from importlib import import_module

    from acutance.environment import installed

    version = installed(name)
    if version is None:
        return {"name": name, "version": "-", "problem": f"not installed: pip install {name}"}
    problem = ""
    try:
        import_module(name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        if "torchvision::nms" in str(error):
            problem = (
                "torchvision was built for another torch than the installed one: install both from the same "
                "source, e.g. pip install --force-reinstall torch torchvision"
            )
        sys.modules.pop(name, None)
    return {"name": name, "version": version, "problem": problem}
