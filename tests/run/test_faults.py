"""Whatever goes wrong: nothing that was stored is lost, the same command completes the run, the tables are the same."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from forked import python_that_forks

import acutance
from acutance import LossSurface, UserError
from acutance.run.executors import Watched
from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.config import load_config
from acutance.surface.integrity import Corrupted, untouched
from acutance.system.progress import Silent

KEY = ["model", "measure", "split"]


@pytest.fixture
def config(three_models):
    """Two families of cells."""
    return three_models | {"measures": [{"name": "worst_case", "rho": [0.01, 0.02], "steps": 2}, {"name": "moody"}]}


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def tables(run):
    columns = [c for c in run.results.columns if c.startswith("spec.")]
    return run.results.sort_values([*KEY, *columns], key=lambda c: c.astype(str)).reset_index(drop=True)


def stored(out):
    with sqlite3.connect(out / "acutance.db") as db:
        return dict(db.execute("SELECT key, value FROM part").fetchall())


# -- kill -9 ------------------------------------------------------------------------------------------------


@pytest.fixture
def killed():
    """Give a function that runs a study in a process that is killed at its n-th transaction, if there are so many."""
    script = Path(__file__).parents[1] / "killable.py"
    with subprocess.Popen(
        [python_that_forks(), script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def run_and_kill(config, out, commit, before):
            job = {"config": config, "out": str(out), "commit": commit, "before": before}
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, int(signal.SIGKILL))
            return status != 0

        yield run_and_kill
        process.stdin.close()


def transactions(config, out, monkeypatch):
    """Return how many transactions a run has, and the run."""
    seen, write = [], Store.transaction
    with monkeypatch.context() as patch:
        patch.setattr(Store, "transaction", lambda store: seen.append(1) or write(store))
        done = run(config, out)
    return len(seen), done


@pytest.mark.parametrize("points", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_driver_that_is_killed_anywhere_loses_nothing(config, tmp_path, monkeypatch, killed, points):
    total, undisturbed = transactions(config, tmp_path / "undisturbed", monkeypatch)
    assert total > 25
    chance = random.Random(0)
    for i in range(points):
        out = tmp_path / str(i)
        kept: dict[str, float] = {}
        for most in (total - 3, total // 2):  # killed again while it goes on
            died = killed(config, out, chance.randint(2, most), before=chance.random() < 0.5)
            assert died or kept
            now = stored(out)
            assert all(now[key] == value for key, value in kept.items())
            kept = now
        done = run(config, out)
        after = stored(out)
        assert all(after[key] == value for key, value in kept.items())
        pd.testing.assert_frame_equal(tables(done), tables(undisturbed))


@pytest.mark.slow
@pytest.mark.real_workers
def test_workers_that_are_killed_at_any_time_cost_nothing(config, tmp_path):
    from acutance.testing.jobs import children

    config["measures"] = [{"name": "moody", "mood": "slow"}, {"name": "worst_case", "rho": [0.01, 0.02], "steps": 2}]
    undisturbed = run(config, tmp_path / "undisturbed")
    chance = random.Random(0)
    for i in range(10):
        over = threading.Event()

        def kill(over=over):
            for _ in range(2):  # a job may be lost twice
                if over.wait(2 + 3 * chance.random()):
                    return
                for child in sorted(children())[:1]:
                    os.kill(child, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        done = run(config | {"executor": {"name": "processes", "workers": 2}}, tmp_path / str(i))
        over.set()
        killer.join()
        assert not done.failed
        pd.testing.assert_frame_equal(tables(done), tables(undisturbed), rtol=1e-6)


# -- a full disk --------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_nothing_is_lost(config, tmp_path, monkeypatch):
    run(config, tmp_path / "undisturbed")
    size = (tmp_path / "undisturbed" / "acutance.db").stat().st_size // 4096
    opened = Store._connect

    def small(store, write):
        connection = opened(store, write)
        if write:
            connection.execute(f"PRAGMA max_page_count = {size - 2}")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_connect", small)
        with pytest.raises(UserError, match=r"acutance.db: cannot be written: database or disk is full \(make room"):
            run(config, tmp_path / "run")
    kept = stored(tmp_path / "run")
    assert 0 < len(kept) < len(stored(tmp_path / "undisturbed"))
    done = run(config, tmp_path / "run")
    assert not done.failed and all(stored(tmp_path / "run")[key] == value for key, value in kept.items())


# -- measures that hang, or change what they are given ------------------------------------------------------


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def hanging(monkeypatch):
    """Have only the cells 2 and 3 timed, whatever else the machine is busy with; return how long each took to end."""
    note_outcome, given_up, took = Watched.note_outcome, Watched.given_up, []

    def timed(worker, outcome):
        note_outcome(worker, outcome)
        if outcome and json.loads(outcome).get("cells") != [2, 3]:
            worker._began = None

    def ended(worker):
        took.append(time.monotonic() - worker._began)
        return given_up(worker)

    monkeypatch.setattr(Watched, "note_outcome", timed)
    monkeypatch.setattr(Watched, "given_up", ended)
    return took


def test_a_measure_that_hangs_is_given_up_and_the_others_go_on(config, tmp_path, hanging):
    undisturbed = run(config, tmp_path / "undisturbed")
    config["measures"] = [*config["measures"], {"name": "moody", "mood": "hang"}]
    config["pools"] = [{"name": "toy", "size": 2}]
    config["executor"] = {"name": "processes", "workers": 2, "time_limit": 1.5}
    reporter = Lines()
    done = run(config, tmp_path / "run", reporter=reporter)
    # Once a model, not once a batch, and long before the 600 s that it hangs.
    assert len(hanging) == 2 and all(1.5 < seconds < 60 for seconds in hanging)
    hung = done.results[done.results["status"] == "failed"]
    # Both moods are one family: what shares its passes shares its fate.
    assert set(hung["measure"]) == {"moody"} and len(hung) == 4 == done.failed
    assert hung["message"].str.contains(r"took longer than executor.time_limit, 1.5 s, on one m-batch").all()
    assert sum("moody: took longer" in line and "the other measures go on" in line for line in reporter.lines) == 1
    assert sum(line.startswith("as of toy") and "(and 1 other model: toy" in line for line in reporter.lines) == 1
    found, expected = (
        tables(r)[lambda t: (t["measure"] == "worst_case") & (t["model"] != "toy2")].reset_index(drop=True)
        for r in (done, undisturbed)
    )
    pd.testing.assert_frame_equal(found[["model", "value"]], expected[["model", "value"]], rtol=1e-6)


@pytest.mark.parametrize("what", ["weights", "inputs", "targets"])
def test_a_measure_that_changes_its_surface_is_refused_and_spoils_nothing(config, tmp_path, what):
    undisturbed = run(config, tmp_path / "undisturbed")
    # First in the order of the study, so that the others come after it.
    config["measures"] = [{"name": "moody", "mood": what}, config["measures"][0]]
    done = run(config, tmp_path / "run")
    refused = done.results[done.results["measure"] == "moody"]
    assert (refused["status"] == "failed").all() and len(refused) == 3
    assert refused["message"].str.contains(f"changed the {what} of the surface that it was given").all()
    found, expected = (
        tables(r)[lambda t: t["measure"] == "worst_case"].reset_index(drop=True) for r in (done, undisturbed)
    )
    pd.testing.assert_frame_equal(found.dropna(axis=1), expected[found.dropna(axis=1).columns])


class Named(torch.nn.Linear):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x, z):
        return super().forward(x)


def test_every_kind_of_change_is_noticed():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    data = (torch.randn(8, 4), torch.arange(8) % 3)

    changes = {
        "weights": [lambda s: s.w.add_(1e-7), lambda s: s.w.data.mul_(1.001)],
        "buffers": [lambda s: s.core.functional.buffers[0][2].add_(1)],
        "inputs": [lambda s: s.inputs.neg_()],
        "targets": [lambda s: s.targets.numpy().__setitem__(0, 2 - int(s.targets[0]))],
    }
    for name, some in changes.items():
        for change in some:
            surface = LossSurface(model, data)
            with pytest.raises(Corrupted, match=f"measure 'x' changed the {name} of"), untouched(surface, "x"):
                change(surface)
            with pytest.raises(Corrupted), untouched(surface, "x"):
                change(surface)
                raise RuntimeError("on the way out")
    surface = LossSurface(model, data)
    with untouched(surface, "x"):
        surface.gradient()
        surface.hvp(torch.randn_like(surface.w))
    with torch.inference_mode():
        inputs = {"x": torch.randn(8, 4), "z": torch.ones(8, 2, dtype=torch.complex128)}
    with untouched(LossSurface(Named(), (inputs, data[1])), "x"):
        pass
    with pytest.raises(ZeroDivisionError), untouched(surface, "x"):
        1 / 0  # noqa: B018


def test_the_public_function_refuses_too():
    surface = LossSurface(torch.nn.Linear(4, 3), (torch.randn(8, 4), torch.arange(8) % 3))
    with pytest.raises(Corrupted, match="'acme-toy/moody' changed the inputs"):
        acutance.measure("moody", surface, mood="inputs")
