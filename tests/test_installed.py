"""Real distributions, built into wheels and installed by pip into a fresh environment, used from the command line.

The fresh environment has its own interpreter, its own site-packages, and in it nothing but the two or more wheels built here:
that is what is proved. The heavy dependencies (torch and so on: gigabytes) are not downloaded again; a ``.pth`` file puts
the running environment's site-packages *behind* the fresh ones, and pip installs with ``--no-deps``. So what pip would do
about dependencies is not proved, and whatever of acutance the running environment has is shadowed by the fresh wheel,
which the first test checks. Building needs hatchling, which pip fetches for the build alone.
"""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from third_parties import ROOT

from acutance import scaffold

pytestmark = pytest.mark.slow
BIN = "Scripts" if os.name == "nt" else "bin"


def run(*command, code=0, cwd=None):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ACUTANCE_PLUGINS")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=570, env=environment, cwd=cwd)
    assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


class Fresh:
    """A new environment with acutance and third parties."""

    def __init__(self, folder):
        self.folder, self.wheels = folder / "env", folder / "wheels"
        run(sys.executable, "-m", "venv", self.folder)
        self.python = self.folder / BIN / "python"
        self.site = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (self.site / "heavy_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *sources):
        run(self.python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", self.wheels, *sources)
        run(self.python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", *self.wheels.glob("*.whl"))

    def acutance(self, *arguments, code=0):
        """Run the installed script from a folder where no source lies."""
        return run(self.folder / BIN / "acutance", *arguments, code=code, cwd=self.folder)

    def code(self, text):
        return run(self.python, "-c", text, cwd=self.folder).strip()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    packages = [
        scaffold.prepare("pool", "nets", folder, "acme-nets"),
        scaffold.prepare("dataset", "blobs", folder, "acme-blobs"),
    ]
    for package in packages:
        scaffold.write(package)
    environment = Fresh(folder)
    environment.install(ROOT, ROOT / "tests" / "dists" / "acme-sam", *(package.folder for package in packages))
    return environment


def test_what_runs_is_what_was_installed(fresh):
    for module in ("acutance", "acutance_worst_case", "acme_sam"):
        assert Path(fresh.code(f"import {module}; print({module}.__file__)")).is_relative_to(fresh.site)
    assert fresh.acutance("--version").startswith("acutance, version")
    # The third party's own metadata, not an editable link to its sources.
    assert not Path(fresh.code("import acme_sam; print(acme_sam.__file__)")).is_relative_to(ROOT)


def test_the_wheel_holds_presets_templates_and_pages(fresh):
    (wheel,) = fresh.wheels.glob("acutance-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = ROOT / "registry"
    for pattern in ("*.yaml", "*.html", "*.j2", "py.typed"):
        files = [path.relative_to(sources).as_posix() for path in (sources / "acutance").rglob(pattern)]
        assert files and set(files) <= names, pattern
    assert not any(name.startswith(("registry/", "plugins/", "tests/")) for name in names)


def test_list_and_show(fresh):
    listed = json.loads(fresh.acutance("--strict-plugins", "list", "--json"))
    ids = {row["id"] for rows in listed.values() for row in rows}
    assert {"acutance/worst_case", "acutance/mnist5k", "acme-sam/sam_rise", "acme-nets/nets", "acme-blobs/blobs"} <= ids
    assert "acme-toy/weight_norm" not in ids
    assert "acme-sam/sam_rise 0.1.0" in fresh.acutance("show", "sam_rise")


def test_measure(fresh):
    arguments = ("nets/nets_001", "--data", "mnist5k:test", "--points", 64, "-m", 32, "--measure", "sam_rise", "--json")
    found = json.loads(fresh.acutance("measure", *arguments))["sam_rise"]
    assert found["status"] == "ok" and found["value"] > 0 and len(found["per_batch"]) == 2
    # One gradient and one loss more on each of two batches of 32.
    assert (found["cost"]["forwards"], found["cost"]["backwards"]) == (128, 64)


def test_run_and_resume(fresh, tmp_path):
    study = {
        "format": 1,
        "requires": {"acutance": ">=0.1", "acme-sam": ">=0.1"},
        "pools": [{"name": "nets", "size": 6, "features": 8, "classes": 3}],
        "dataset": {"name": "blobs", "points": 64},
        "surface": {"points": 32, "m": 16},
        "targets": ["test_error", "shifted.error"],
        "within": ["architecture"],
        "measures": [
            {"name": "sam_rise", "rho": [0.02, 0.05]},
            {"name": "acutance/average_case", "rho": 0.1, "draws": 5},
        ],
        # Another process loads the plugins again, from their entry points.
        "executor": {"name": "processes", "workers": 2},
    }
    path, out = tmp_path / "study.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(study))
    assert "6 of 6 models compared, 30 cells computed" in fresh.acutance("run", path, "--out", out)
    assert "0 cells computed" in fresh.acutance("run", path, "--out", out)
    rows = json.loads(fresh.acutance("results", out, "--table", "results", "--json"))
    assert {row["spec.rho"] for row in rows if row["measure"] == "sam_rise"} == {0.02, 0.05}
    assert (out / "report.html").stat().st_size > 10_000
    environment = json.loads((out / "environment.json").read_text())
    assert environment["plugins"]["acme-sam:sam_rise"] == "0.1.0"


def test_the_third_partys_own_tests_pass_in_the_fresh_environment(fresh):
    tests = ROOT / "tests" / "dists" / "acme-sam" / "tests"
    done = run(fresh.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, cwd=fresh.folder)
    assert " passed" in done


def test_a_plugin_that_is_removed_is_gone(fresh):
    run(fresh.python, "-m", "pip", "uninstall", "--quiet", "--yes", "acme-sam")
    assert "sam_rise" not in fresh.acutance("list", "measures")
