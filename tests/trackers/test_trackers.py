"""Trackers, each with its own library: what a training and a study leave in them, and how they go on."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.monitor.trainings import points, same, train
from tests.trackers import reading

from acutance.errors import AcutanceWarning
from acutance.monitor import Monitor
from acutance.plugins import Item, catalog, extended
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance_trackers.plugin import register_sinks

ROOT = Path(__file__).parents[2]
# MLflow without SQLAlchemy, or the other way round, keeps no runs.
LIBRARIES = {
    "csv": (), "tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy"), "trackio": ("trackio",),
}  # fmt: skip
MEASURES = [{"name": "average_case", "rho": 0.1, "draws": 3}, {"name": "critical_sharpness", "direction": "update"}]
AVERAGE, UPDATE = "average_case(rho=0.1,draws=3)", "critical_sharpness(direction=update)"


def registered():
    """What the plugin registers, where the metadata of an older installation does not say so."""
    new = {name: where for name, where in register_sinks().items() if catalog().lookup("sinks", name) is None}
    return [Item("sinks", name, "acutance", "1", where) for name, where in new.items()]


@pytest.fixture(autouse=True)
def known():
    with extended(registered()):
        yield


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    connect = socket.socket.connect

    def local(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


@pytest.fixture(params=LIBRARIES)
def tracker(request):
    for library in LIBRARIES[request.param]:
        pytest.importorskip(library, reason=f"{request.param} is in the extra 'trackers'")
    return request.param


def read(tracker, folder):
    found = getattr(reading, f"read_{tracker}")(folder, folder.name)
    if tracker == "mlflow":  # which takes no brackets
        for name in (AVERAGE, UPDATE):
            written = name.replace("(", " ").replace(")", "").replace(",", " ").replace("=", ":")
            found = {(run, key.replace(written, name), step): v for (run, key, step), v in found.items()}
    return found


def monitored(folder, tracker, **options):
    given = {"every": 4, "out": folder, "report": False, "sinks": [tracker], **options}
    return Monitor(MEASURES, points(32, seed=5), **given)


def curve(found, run, name):
    return {step: values for (one, key, step), values in found.items() if (one, key) == (run, name)}


def test_a_training_is_a_run_with_a_curve_a_metric(tracker, tmp_path):
    folder = tmp_path / "here"
    with monitored(folder, tracker, attributes={"kind": "small"}) as monitor:
        same(train(), train(monitor))  # and no tracker disturbs it
    found = read(tracker, folder)
    rows = {(row["measure"], row["step"]): row for row in monitor.rows}
    for step in (0, 4, 8, 12):
        row = rows["average_case", step]
        for part in ("value", "stderr"):
            (value,) = found["training", f"{AVERAGE}/{part}", step]
            assert value == pytest.approx(row[part], rel=1e-6)  # float32 in TensorBoard
    assert sorted(curve(found, "training", "loss/value")) == [0, 4, 8, 12]
    # The last update is not known: no number, but a text.
    assert sorted(curve(found, "training", f"{UPDATE}/value")) == [0, 4, 8]
    ((_, told),) = [(step, texts) for step, texts in curve(found, "training", f"{UPDATE}/status").items()]
    assert "ended before" in told[-1]
    if tracker != "csv":
        assert curve(found, "training", "training/learning_rate") == {
            step: [pytest.approx(0.05)] for step in (0, 4, 8, 12)
        }
        assert sorted(curve(found, "training", "training/loss")) == [4, 8, 12]
    if tracker == "mlflow":
        assert found["training", "param kind", None] == ["small"] and found["training", "param seed", None] == ["0"]
    if tracker == "tensorboard":
        assert "kind: small" in found["training", "facts", 0][0]


KILLED = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
from tests.monitor.trainings import train
from tests.trackers.test_trackers import monitored, registered
from acutance.plugins import extended
with extended(registered()):
    monitor = monitored(Path(sys.argv[1]), sys.argv[2])
    def stop(step):
        if step == 9:
            os._exit(9)
    train(monitor, each=stop)
"""


def test_a_training_that_was_killed_goes_on_in_the_same_run(tracker, tmp_path):
    folder = tmp_path / "here"
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of this process
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), tracker, str(torch.get_num_threads())],
        cwd=ROOT, capture_output=True, timeout=200, env={**inherited, "PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"},
    )  # fmt: skip
    assert done.returncode == 9, done.stderr.decode()
    with pytest.warns(AcutanceWarning, match="its steps take their places"):
        with monitored(folder, tracker) as again:
            train(again)
    found = read(tracker, folder)
    assert {run for run, _, _ in found} == {"training"}
    for step in (0, 4, 8, 12):
        assert len(found["training", f"{AVERAGE}/value", step]) == 1
    assert {len(values) for values in curve(found, "training", f"{UPDATE}/value").values()} == {1}
    if tracker == "wandb":
        assert len(reading.wandb_ids(folder)) == 1
    # A checkpoint of an earlier step, with other weights from there on: the last value is the one that holds.
    torch.manual_seed(9)
    with pytest.warns(AcutanceWarning, match="its steps take their places"), monitored(folder, tracker) as other:
        other.load_state_dict({"step": 7, "epoch": 1})
        other.step(torch.nn.Linear(6, 3))
    found = read(tracker, folder)
    expected = next(row["value"] for row in other.rows if row["measure"] == "average_case")
    values = curve(found, "training", f"{AVERAGE}/value")
    assert values[8][-1] == pytest.approx(expected, rel=1e-6) and len(values[4]) == 1
    if tracker in ("csv", "tensorboard"):  # which take points back
        assert sorted(values) == [0, 4, 8] and len(values[8]) == 1


def test_in_a_study_each_model_is_a_run(tracker, tmp_path, three_models, monkeypatch):
    folder = tmp_path / "here"
    if tracker != "csv":
        monkeypatch.setattr(catalog().find("sinks", tracker).target, "most_open", 2)  # the third closes the first
    asked = three_models | {"measures": [{"name": "weight_norm", "p": [1, 2]}, {"name": "moody", "mood": "nan"}]}
    run = run_study(load_config(asked, sinks=[tracker]), folder, report=False)
    found = read(tracker, folder)
    first, test_error = ("weight_norm p:1", "error split:test/value") if tracker == "mlflow" else (
        "weight_norm(p=1)", "error(split=test)/value"
    )  # fmt: skip
    results = run.results[run.results["measure"] == "weight_norm"]
    assert len(results) == 6
    for row in results.to_dict("records"):
        name = f"{first if row['spec.p'] == 1 else 'weight_norm'}/value"
        (values,) = [v for (one, key, _), v in found.items() if (one, key) == (row["model"], name)]
        assert values == [pytest.approx(row["value"], rel=1e-6)]
    models = set(results["model"])
    assert {one for one, key, _ in found if key.startswith("moody") and key.endswith("/status")} == models
    assert {key for _, key, _ in found if key.startswith("error")} == {test_error}
    if tracker == "mlflow":
        model = min(models)
        assert found[model, "param surface.m", None] == ["8"] and found[model, "param learning_rate", None]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_without_the_library_one_sentence_says_what_to_install_and_training_goes_on(name, tmp_path, monkeypatch):
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.warns(AcutanceWarning) as told, monitored(tmp_path, name) as monitor:
        train(monitor)
    (said,) = [str(w.message) for w in told]
    assert said.startswith(f"sink '{name}' of acutance")
    assert f"pip install '{name}>=" in said and "the extra 'trackers'" in said
    assert len(monitor.rows) == 4 * 3


def test_the_csv_file_is_one_line_a_value(tmp_path):
    with monitored(tmp_path, {"name": "csv", "file": "mine.csv"}) as monitor:
        train(monitor)
    header, *lines = (tmp_path / "mine.csv").read_text().splitlines()
    assert header.startswith("run,step,metric,value,stderr,status,message,model") and len(lines) == len(monitor.rows)
    import pandas as pd

    table = pd.read_csv(tmp_path / "mine.csv")
    for line, row in zip(table.to_dict("records"), monitor.rows):
        assert line["model"] == row["model"] and line["measure"] == row["measure"] and line["step"] == row["step"]
        assert line["value"] == row["value"] or math.isnan(line["value"])
        settings = json.loads(line["settings"])
        assert settings == {name[5:]: v for name, v in row.items() if name.startswith("spec.")}
        assert json.loads(line["attributes"])["learning_rate"] == 0.05
