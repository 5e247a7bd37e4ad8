"""Fake distributions: a folder with packages and a .dist-info counts as installed."""

import os
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path

from forked import run_forked

ROOT = Path(__file__).parents[1]


def distribution(folder, name, entry_points, version="1.0", requires=()):
    """Write the metadata that pip would write; entry_points is {name: value}."""
    info = Path(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    points = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[acutance]", *points]) + "\n")
    return PathDistribution(info)


def plugin(folder, name, source, **options):
    """Write a fake distribution with one plugin module of this source; return its entry points."""
    module = name.replace("-", "_")
    (Path(folder) / f"{module}.py").parent.mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{module}.py").write_text(textwrap.dedent(source))
    return list(distribution(folder, name, {module: module}, **options).entry_points)


def installed_from_source(folder):
    """Give a source tree with src/ the metadata that an editable installation would; return what goes on the path."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["acutance"]
    distribution(folder / "src", project["name"], points, project["version"], project["dependencies"])
    return folder / "src"


def python(*arguments, path=(), code=0, forked=False, **options):
    """Run this interpreter with more folders in front of the path; ``forked``: in a fork that need not start anew."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, before)])}
    environment |= options.pop("env", {})
    if forked:
        done = run_forked(*arguments, env=environment, **options)
    else:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            **options,
        )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done
