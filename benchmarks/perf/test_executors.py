"""Executors: what ray adds to a cell, and how much of two workers' time is work."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acutance.run.executors import cores
from acutance.run.harness import run_study
from acutance.study.config import load_config

HERE = Path(__file__).parent
# The pause of this folder, on the models and points of the tests.
PLUGINS = (HERE / "dists", HERE.parents[1] / "tests" / "dists" / "toy")
WORKERS = 2
LIMIT = 2  # models of each pool of the preset mnist
SPIN = 2.0  # seconds to find out whether the cores are free


def skip_without_ray():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the package ray is missing: pip install -e .[ray]")


def pauses(models, cells, seconds):
    """Return a study of cells that do nothing for some seconds, each a unit of work by itself."""
    return {
        "format": 1,
        "pools": [{"name": "toy", "size": models}],
        "dataset": {"name": "toy"},
        "surface": {"points": 8, "m": 8},
        "targets": ["test_error"],
        "within": [],
        "measures": [{"name": "pause", "seconds": seconds, "replicates": cells}],
        "executor": {"name": "ray_up", "workers": WORKERS, "gpus": 0},
    }


def stage_seconds(config, out, cells):
    """Return the wall seconds from the first job of the measures to the last stored cell, actors being up."""
    path = os.pathsep.join([*map(str, PLUGINS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, HERE / "stage_seconds.py", out], input=json.dumps(config), env={**os.environ, "PYTHONPATH": path},
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cells"] == cells
    return found["seconds"]


def test_what_ray_adds_to_a_cell(timed, tmp_path):
    skip_without_ray()
    models, each = 100, 100
    cells = models * each

    def work():
        return stage_seconds(pauses(models, each, 0.0), tmp_path, cells) / cells

    timed(work, rounds=1, bound=0.010, cells=cells)


def test_cells_of_a_second_on_ray(timed, tmp_path):
    skip_without_ray()
    models, each = 4, 5
    cells = models * each
    ideal = cells / WORKERS

    def work():
        return stage_seconds(pauses(models, each, 1.0), tmp_path, cells)

    # At least 85% of the workers' time is work.
    timed(work, rounds=1, bound=round(ideal / 0.85, 2), cells=cells, ideal=ideal)


def cores_had():
    """Return how many cores the workers would have now: other work may be on them, or a quota."""
    spin = f"import time; end = time.perf_counter() + {SPIN}\nwhile time.perf_counter() < end: pass\nprint(time.process_time())"
    command = [sys.executable, "-S", "-c", spin]
    spinning = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)]
    return sum(float(process.communicate()[0]) for process in spinning) / SPIN


def missing_models(study):
    """Return how many of the models that the study takes have yet to be trained."""
    pools = [(pool.item.target(), pool.spec) for pool in study.pools]
    return sum(len(pool.missing(pool.entries(spec)[:LIMIT], spec)) for pool, spec in pools)


def test_two_processes_beside_one(compare, tmp_path):
    """Wall time with the start of the processes; at least 1.7 times as fast."""
    if cores() < WORKERS:
        pytest.skip(f"{WORKERS} processes need {WORKERS} cores, this machine gives one")
    if (had := cores_had()) < 0.95 * WORKERS:
        pytest.skip(f"{WORKERS} busy processes have {had:.2f} cores together: other work is on them")
    studies = {
        "serial": load_config("mnist", ["executor={name: serial}"]),
        "processes": load_config("mnist", [f"executor={{name: processes, workers: {WORKERS}}}"]),
    }
    if lacking := missing_models(studies["serial"]):
        pytest.skip(f"{lacking} models of the preset mnist are not trained yet: acutance run mnist --limit {LIMIT}")

    def run(name):
        found = run_study(studies[name], tmp_path / name, device="cpu", limit=LIMIT, report=False)
        assert not found.failed and found.computed

    compare(
        lambda: run("processes"), lambda: run("serial"), rounds=1, bound=1 / 1.7, seconds=time.perf_counter,
        against="the time of one process", models=2 * LIMIT,
    )  # fmt: skip
