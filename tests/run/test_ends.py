"""How runs end that cannot go on as they should: one sentence, nothing lost, no page that is older than it looks."""

import errno
import shutil
import signal
import sqlite3

import pandas as pd
import pytest
import torch

import acutance
from acutance import UserError
from acutance.cli import main
from acutance.run.directory import OLD
from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.config import load_config
from acutance.system.devices import require_device
from acutance.system.ending import Terminated, what_is_left
from acutance.system.progress import Silent


@pytest.fixture
def config(three_models):
    return three_models | {"measures": [{"name": "average_case", "rho": [0.01, 0.02], "draws": 2}]}


class Lines(Silent):
    """Notes what is said, and does something at the n-th advance."""

    def __init__(self, at=0, act=None):
        self.lines, self.at, self.act, self.count = [], at, act, 0

    def say(self, text):
        self.lines.append(text)

    def advance(self, work, items=0):
        self.count += 1
        if self.count == self.at:
            self.act()


def run(config, out, **options):
    return run_study(load_config(config), out, **{"report": False, **options})


def parts(path):
    with sqlite3.connect(path) as db:
        return db.execute("SELECT count(*) FROM part").fetchone()[0]


# -- the folder goes away -----------------------------------------------------------------------------------


@pytest.mark.parametrize("renamed", [True, False])
def test_a_run_whose_folder_goes_away_stops_at_once_and_keeps_what_it_has(config, tmp_path, renamed):
    out, other = tmp_path / "run", tmp_path / "elsewhere"
    undisturbed = run(config, tmp_path / "undisturbed")
    reporter = Lines(5, lambda: out.rename(other) if renamed else shutil.rmtree(out))
    words = "was renamed to .*elsewhere during the run" if renamed else "was deleted during the run"
    with pytest.raises(UserError, match=f"run: {words}, which has stopped; what it computed is") as told:
        run(config, out, reporter=reporter)
    # One more part was committed when it was noticed; that one is kept too.
    assert reporter.count == 5 and not out.exists()
    kept = other if renamed else tmp_path / "run-rescued-1"
    assert told.value.hint == f"go on with --out {kept}"
    assert parts(kept / "acutance.db") == 3 * 1 + 3 * 2
    done = run(config, kept)
    assert done.computed == undisturbed.computed - 3
    pd.testing.assert_frame_equal(done.results, undisturbed.results)


def test_another_run_in_the_old_place_is_left_alone(config, tmp_path):
    out = tmp_path / "run"

    def start_again():
        shutil.rmtree(out)
        run(config, out)
        again.append(Store(out / "acutance.db"))  # its log is there, under the name of the lost one's
        again[0].put_points({"still": ["here"]})

    again = []
    with pytest.raises(UserError, match="was deleted during the run"):
        run(config, out, reporter=Lines(4, start_again))
    assert (out / "acutance.db-wal").exists() and again[0].points() == {"still": ["here"]}
    again[0].close()
    assert not run(config, out).computed


# -- devices and executors ----------------------------------------------------------------------------------


def test_a_device_that_is_not_there_is_refused_before_anything_changes(config, tmp_path):
    run(config, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    config["measures"][0]["rho"] = [0.03]
    cases = {"cuda:99": "serial", "meta": "serial", "gpu": "serial", "cuda:1": "processes", "cpu": "ray"}
    for device, executor in cases.items():
        with pytest.raises(UserError, match=f"device '{device}'"):
            run(config | {"executor": {"name": executor}}, tmp_path, device=device)
        with pytest.raises(UserError, match=f"device '{device}'"):
            run(config | {"executor": {"name": executor}}, tmp_path / "new", device=device)
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    require_device("cpu")


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_device("cuda:1")
    with pytest.raises(UserError, match="device 'cuda:2' is not available: the GPUs are cuda:0 to cuda:1"):
        require_device("cuda:2")


# -- models that cannot be used -----------------------------------------------------------------------------


def broken():
    model = torch.nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    return model


@pytest.mark.parametrize("targets", [{"e": [0.1, 0.2, 0.3, 0.4]}, ["train_error"]])
def test_models_that_are_all_unusable_are_told_in_one_sentence(tmp_path, targets):
    x, y = torch.randn(16, 4), torch.arange(16) % 3
    measures, reporter = [{"name": "average_case", "rho": 0.1, "draws": 2}], Lines()
    message = (
        r"no model is admitted: n0: parameter 'weight' has 12 non-finite value\(s\) .* "
        r"\(and 3 other models: n1, n2, n3\) \(loosen"
    )
    with pytest.raises(UserError, match=message) as told:
        acutance.study(
            {f"n{i}": broken() for i in range(4)}, (x, y), targets, measures, surface={"m": 8}, report=False,
            out=tmp_path, reporter=reporter,
        )  # fmt: skip
    assert str(told.value).count("non-finite") == 1
    said = [line for line in reporter.lines if "n0" in line or "n1" in line]
    assert len(said) == 2 and said[0].startswith("n0: parameter 'weight'")
    assert said[1] == "as of n0 (and 3 other models: n1, n2, n3)"


def test_one_usable_model_is_enough_for_a_run(tmp_path):
    x, y = torch.randn(16, 4), torch.arange(16) % 3
    models = {"good": torch.nn.Linear(4, 3), "bad": broken()}
    measures = [{"name": "average_case", "rho": 0.1, "draws": 2}]
    done = acutance.study(models, (x, y), {"e": [0.1, 0.2]}, measures, surface={"m": 8}, report=False, out=tmp_path)
    assert done.failed == 1 and list(done.results["model"]) == ["good"]


# -- pages and last lines -----------------------------------------------------------------------------------


def test_a_page_that_is_older_than_the_tables_says_so(config, tmp_path):
    done = run(config, tmp_path, report=True)
    page = done.report.read_text("utf-8")
    assert OLD not in page
    run(config, tmp_path)
    assert done.report.read_text("utf-8") == page  # nothing has changed
    for _ in range(2):
        reporter = Lines()
        run(config, tmp_path, limit=2, reporter=reporter)
        old = done.report.read_text("utf-8")
        assert old.count(OLD) == 1 and old.replace(OLD, "") == page and f"<body>{OLD}" in old
        assert f"{done.report}: is older than the tables now, and says so" in reporter.lines
    run(config, tmp_path)  # back to the tables that the page was made of: it was marked
    assert OLD in done.report.read_text("utf-8")
    run(config, tmp_path, report=True)
    assert OLD not in done.report.read_text("utf-8")
    # A page made by another command is known to be new.
    run(config, tmp_path, limit=2)
    from acutance.run.directory import RunDirectory
    from acutance.run.outputs import write_report

    write_report(RunDirectory(tmp_path), {})
    run(config, tmp_path, limit=2)
    assert OLD not in done.report.read_text("utf-8")


@pytest.mark.parametrize("quiet", [True, False])
def test_the_last_line_agrees_with_the_exit_status(config, tmp_path, capfd, quiet):
    config["measures"].append({"name": "moody", "mood": "raise"})
    path = tmp_path / "study.yaml"
    from acutance.io.yaml_files import dump_yaml

    path.write_text(dump_yaml(config))
    with pytest.raises(SystemExit) as end:
        main(["run", str(path), "--out", str(tmp_path / "run"), "--no-report", *["--quiet"] * quiet])
    out, err = capfd.readouterr()
    assert end.value.code == 1
    assert err.splitlines()[-1] == (
        f"3 without a number: {tmp_path}/run/results.csv and models.csv say why; exit status 1"
    )
    assert bool(out) != quiet and (not quiet or len(err.splitlines()) == 1)


@pytest.mark.parametrize(("end", "said", "code"), [
    (Terminated(signal.SIGTERM), "ended by SIGTERM before it was done", 143),
    (KeyboardInterrupt(), "interrupted before it was done", 130),
    (OSError(errno.ENOSPC, "full", "x.csv"), "error: x.csv: cannot be written: full\nhint: free space, or choose", 2),
])  # fmt: skip
def test_what_stores_nothing_does_not_say_that_it_did(monkeypatch, capsys, end, said, code):
    def ends(*_):
        raise end

    monkeypatch.setattr("acutance.cli.compare_.open_side", ends)
    with pytest.raises(SystemExit) as told:
        main(["compare", "a", "b"])
    assert told.value.code == code and capsys.readouterr().err.strip().startswith(said)
    end.add_note("kept")
    assert what_is_left(end) == ": kept"
