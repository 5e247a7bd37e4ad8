import math
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.monitor.trainings import network, points, same, train
from tests.shell import cli
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import acutance
from acutance import UserError
from acutance.errors import AcutanceWarning
from acutance.monitor import Monitor

ROOT = Path(__file__).parents[2]
ALL = [
    "gradient_norm",
    {"name": "critical_sharpness", "direction": "update"},
    {"name": "hessian_top_eigenvalue", "every": 8},
    "distance_from_initialization",
    {"name": "average_case", "rho": 0.1, "draws": 3},
]


def monitored(tmp_path, measures=ALL, **options):
    return Monitor(measures, points(32, seed=5), **{"every": 4, "out": tmp_path / "run", "report": False, **options})


def values(rows, measure):
    return {row["step"]: row["value"] for row in rows if row["measure"] == measure}


@pytest.mark.parametrize("autocast", [False, True])
def test_training_is_bitwise_what_it_is_without(tmp_path, autocast):
    with monitored(tmp_path) as monitor:
        same(train(autocast=autocast), train(monitor, autocast=autocast))
    assert [row["status"] for row in monitor.rows[:-1]] == ["ok"] * (len(monitor.rows) - 1)
    assert "ended before" in monitor.rows[-1]["message"]  # the optimizer's next step was never made
    assert len(monitor.rows) == 4 * 5 + 2  # loss and four measures at steps 0 to 12, the eigenvalue at 0 and 8


def test_a_shuffling_loader_as_points_draws_nothing_from_the_training(tmp_path):
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(*points()), batch_size=16, shuffle=True, generator=generator)
    torch.manual_seed(0)
    states = torch.get_rng_state(), generator.get_state()
    with pytest.warns(AcutanceWarning, match="points: the loader shuffles"):
        Monitor(["gradient_norm"], loader, out=tmp_path / "run", report=False).close()
    assert torch.equal(states[0], torch.get_rng_state()) and torch.equal(states[1], generator.get_state())


def test_values_are_those_of_the_checkpoint(tmp_path):
    kept = {}
    with monitored(tmp_path, ["gradient_norm", {"name": "worst_case", "rho": 0.01, "steps": 3}]) as monitor:
        original = monitor.step

        def step(model, optimizer, **logged):
            rows = original(model, optimizer, **logged)
            if rows:
                kept[monitor.step_count] = {name: t.clone() for name, t in model.state_dict().items()}
            return rows

        monitor.step = step
        train(monitor)
    model = network()
    for number, state in kept.items():
        model.load_state_dict(state)
        inputs = points(32, seed=5)
        surface = acutance.LossSurface(model.eval(), inputs)
        assert values(monitor.rows, "loss")[number] == float(surface.loss())
        assert values(monitor.rows, "gradient_norm")[number] == acutance.measure("gradient_norm", surface).value
    assert sorted(kept) == [4, 8, 12]


def test_the_update_is_the_step_that_the_optimizer_really_takes(tmp_path):
    measures = [{"name": "critical_sharpness", "direction": "update"}]
    steps = {}
    with monitored(tmp_path, measures) as monitor:
        original = monitor.step

        def step(model, optimizer, **logged):
            steps[monitor.step_count + 1] = {name: t.clone() for name, t in model.state_dict().items()}
            return original(model, optimizer, **logged)

        monitor.step = step
        train(monitor, start=False)
    before, after = steps[4], steps[5]
    model = network()
    model.load_state_dict(before)
    update = {name: after[name] - before[name] for name, _ in model.named_parameters()}
    expected = acutance.measure(
        "critical_sharpness", model.eval(), points(32, seed=5), direction="update", update=update
    )
    found = values(monitor.rows, "critical_sharpness")
    assert found[4] == expected.value
    assert math.isnan(found[12])  # training ended: there is no next step
    assert "ended" in next(row["message"] for row in monitor.rows if row["step"] == 12 and math.isnan(row["value"]))


@pytest.mark.parametrize("optimizer", [None, "none of torch"])
def test_without_an_optimizer_what_looks_at_its_step_says_so(tmp_path, optimizer, recwarn):
    model = network()
    with monitored(tmp_path, ["gradient_norm", {"name": "critical_sharpness", "direction": "update"}]) as monitor:
        rows = monitor.start(model, optimizer)
    said = {row["measure"]: (row["status"], row["message"]) for row in rows}
    assert said["gradient_norm"][0] == "ok"
    assert said["critical_sharpness"][0] == "unsupported" and "optimizer" in said["critical_sharpness"][1]


def test_a_measure_that_fails_is_a_row_and_training_goes_on(tmp_path, monkeypatch):
    from acutance_hessian.hessian_top_eigenvalue import HessianTopEigenvalue

    def broken(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(HessianTopEigenvalue, "evaluate_many", broken)
    with monitored(tmp_path, ["hessian_top_eigenvalue", "gradient_norm"]) as monitor:
        same(train(), train(monitor))
    failed = [row for row in monitor.rows if row["measure"] == "hessian_top_eigenvalue"]
    assert [row["status"] for row in failed] == ["failed"] * 4 and "no such luck" in failed[0]["message"]
    assert all(math.isfinite(v) for v in values(monitor.rows, "gradient_norm").values())


def test_weights_that_diverged_are_rows_with_the_reason_and_one_warning(tmp_path):
    model = network()
    with monitored(tmp_path, ["gradient_norm"], every=1) as monitor, pytest.warns(AcutanceWarning) as told:
        monitor.step(model)
        with torch.no_grad():
            model[0].weight[0, 0] = math.nan
        monitor.step(model)
        monitor.step(model)
    assert [row["status"] for row in monitor.rows if row["measure"] == "gradient_norm"] == ["ok", "failed", "failed"]
    assert "non-finite" in monitor.rows[-1]["message"]
    assert len([w for w in told if "monitor" in str(w.message)]) == 1


def test_what_stands_in_the_way_of_all_is_the_reason_of_what_is_left_and_of_nothing_else(tmp_path, monkeypatch):
    from acutance.monitor import record

    real, asked = record.family_estimates, []

    def breaks_down(unit, surface, seed):
        asked.append(unit.measure)
        if unit.measure == "acutance/gradient_norm":
            raise OSError("the device has gone")
        return real(unit, surface, seed)

    monkeypatch.setattr(record, "family_estimates", breaks_down)
    with monitored(tmp_path, ["parameter_norm", "gradient_norm"]) as monitor:
        with pytest.warns(AcutanceWarning, match="the device has gone; training goes on"):
            same(train(), train(monitor))
    status = {(row["measure"], row["step"]): row["status"] for row in monitor.rows}
    assert {status["gradient_norm", step] for step in (0, 4, 8, 12)} == {"failed"}
    assert {status["loss", step] for step in (0, 4, 8, 12)} == {"ok"} == {status["parameter_norm", 4]}
    # A run that has ended keeps its tables, though cells failed.
    assert "has not ended" not in cli("report", tmp_path / "run").stderr


class FullyShardedDataParallel(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("model", [FullyShardedDataParallel(nn.Linear(6, 3)), "no model"])
def test_a_model_that_cannot_be_opened_is_a_row_that_says_why(tmp_path, model):
    with monitored(tmp_path, ["gradient_norm"], every=1) as monitor, pytest.warns(AcutanceWarning, match="goes on"):
        rows = monitor.step(model)
    assert {row["status"] for row in rows} == {"failed"}
    assert "FullyShardedDataParallel" in rows[0]["message"] or "no torch.nn.Module" in rows[0]["message"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_callers_modes_change_no_value(tmp_path, mode):
    model = network()
    with monitored(tmp_path / "a", every=1) as plain, monitored(tmp_path / "b", every=1) as inside:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        plain.start(model, optimizer)
        with mode():
            inside.start(model, optimizer)
    assert [row["value"] for row in plain.rows if row["status"] == "ok"]
    assert [r["value"] for r in plain.rows[:-1]] == [r["value"] for r in inside.rows[:-1]]


def test_a_compiled_model_is_the_module_inside(tmp_path):
    model = network()
    with monitored(tmp_path / "a", ["gradient_norm"]) as plain, monitored(tmp_path / "b", ["gradient_norm"]) as other:
        plain.start(model)
        other.start(torch.compile(model))
    assert values(plain.rows, "gradient_norm") == values(other.rows, "gradient_norm")


def test_the_model_is_looked_at_once_a_training(tmp_path):
    model = network()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    with monitored(tmp_path, ["gradient_norm"], every=1) as monitor:
        counts = []
        for _ in range(3):
            with torch.no_grad():
                model[0].weight += 0.01
            calls.clear()
            monitor.step(model)
            counts.append(len(calls))
        # The loss of all points, the gradient of those of the batch; at first what the model does with examples too.
        assert counts[0] > 10 and counts[1:] == [2, 2]
        other = network().double()
        other.register_forward_hook(lambda *_: calls.append(1))
        calls.clear()
        with pytest.warns(AcutanceWarning, match="another than before"):
            monitor.step(other)
        assert len(calls) > 10
    found = values(monitor.rows, "gradient_norm")
    assert found[3] == acutance.measure("gradient_norm", model.eval(), points(32, seed=5)).value


# -- the run directory ----------------------------------------------------------------------------------------------


KILLED = """
import os, sys
from tests.monitor.test_monitor import ALL, monitored
from tests.monitor.trainings import train
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))  # sums of the training depend on it
monitor = monitored(Path(sys.argv[1]), ALL)
def stop(step):
    if step == 7:
        os._exit(9)
train(monitor, each=stop)
"""


def killed(folder):
    """Monitor a training in a process that dies at its seventh step."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(torch.get_num_threads())],
        cwd=ROOT,
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 9, done.stderr
    assert not (folder / "run" / "results.csv").exists()


def test_a_training_that_was_killed_goes_on_with_its_curve(tmp_path):
    with monitored(tmp_path) as whole:
        train(whole)
    killed(tmp_path / "killed")
    with pytest.warns(AcutanceWarning, match="its steps take their places"):
        with monitored(tmp_path / "killed") as again:
            train(again)
    tables = [pd.read_csv(folder / "run" / "results.csv") for folder in (tmp_path, tmp_path / "killed")]
    pd.testing.assert_frame_equal(*tables)
    # What was there is known: only what the first did not get to is computed.
    assert sorted(values(again.rows, "gradient_norm")) == [0, 4, 8, 12]
    tries = sqlite3.connect(tmp_path / "killed" / "run" / "acutance.db").execute(
        "SELECT count(*) FROM attempt WHERE measure = 'acutance/gradient_norm'"
    )
    assert tries.fetchone() == (4,)


def test_the_report_of_a_training_that_was_killed_is_made_from_its_store(tmp_path):
    killed(tmp_path)
    assert "has not ended" in cli("report", tmp_path / "run").stderr
    assert len(pd.read_csv(tmp_path / "run" / "results.csv")) == 6 + 5  # steps 0 and 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"surface": {"m": 8}}, "other surface.m:"),
        ({"seed": 1}, "other seed:"),
        ({"measures": ["parameter_norm"]}, "other measures:"),
        ({"points": points(24, seed=5)}, "other points, surface.points, surface.m:"),
        ({"measures": ["gradient_norm", "parameter_norm"]}, ""),
    ],
)
def test_a_directory_whose_curves_are_of_something_else_says_what_tables_leave_out(tmp_path, changes, said):
    options = {"measures": ["gradient_norm"], "points": points(32, seed=5), "out": tmp_path, "report": False}
    Monitor(**options).close()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Monitor(**{**options, **changes}).close()
    assert [said in str(w.message) and "leave those values out" in str(w.message) for w in told] == [True] * bool(said)


def test_of_several_learning_rates_the_largest_stands_in_tables(tmp_path):
    model = network()
    groups = [{"params": model[i].parameters(), "lr": rate} for i, rate in ((0, 0.1), (1, 0.3), (4, 0.2))]
    with monitored(tmp_path, ["gradient_norm"]) as monitor:
        row = monitor.start(model, torch.optim.SGD(groups, lr=1.0))[0]
    assert row["attr.learning_rate"] == 0.3 and "attr.stability_threshold" not in row


def test_two_trainings_of_one_name_at_a_time_are_told(tmp_path):
    with monitored(tmp_path, ["gradient_norm"]) as monitor:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitored(tmp_path, ["gradient_norm"], run="other").close()
        with pytest.warns(AcutanceWarning, match=r"another training.*run 'training'.*give another run="):
            monitored(tmp_path, ["gradient_norm"]).close()
        with pytest.warns(AcutanceWarning, match="another training"):  # the first is there still
            monitored(tmp_path, ["gradient_norm"]).close()
        monitor.start(network())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitored(tmp_path, ["gradient_norm"]).close()
    assert not list((tmp_path / "run").glob(".*.lock"))


def test_several_trainings_lie_in_one_directory(tmp_path):
    for run in ("a", "b"):
        with monitored(tmp_path, ["gradient_norm"], run=run, attributes={"kind": run.upper()}) as monitor:
            train(monitor)
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    assert sorted(set(table["attr.run"])) == ["a", "b"] and set(table["attr.kind"]) == {"A", "B"}
    assert len(table) == 2 * 2 * 4
    models = pd.read_csv(tmp_path / "run" / "models.csv")
    assert list(models["attr.step"]) == [0, 4, 8, 12] * 2 and set(models["attr.learning_rate"]) == {0.05}
    correlations = pd.read_csv(tmp_path / "run" / "correlations.csv")
    assert set(correlations["within"]) == {"run=a", "run=b"} and set(correlations["n"]) == {4}


def test_sinks_get_the_rows_with_their_steps(tmp_path):
    import json

    with monitored(tmp_path, ["gradient_norm"], sinks=["jsonl"]) as monitor:
        train(monitor)
    lines = [json.loads(line) for line in next((tmp_path / "run").glob("*.jsonl")).read_text().splitlines()]
    assert [line["step"] for line in lines if line["measure"] == "gradient_norm"] == [0, 4, 8, 12]


def test_epochs_and_steps_given_by_a_trainer(tmp_path):
    model = network()
    with monitored(tmp_path, ["gradient_norm"], every="2 epochs") as monitor:
        for epoch in range(1, 5):
            for step in (epoch * 10, epoch * 10):  # a trainer that accumulates calls with the same step
                assert monitor.step(model, step=step) == []
            rows = monitor.epoch(model)
            assert bool(rows) == (epoch in (2, 4))
    assert sorted(values(monitor.rows, "gradient_norm")) == [20, 40]


def test_the_state_goes_into_a_checkpoint(tmp_path):
    model = network()
    with monitored(tmp_path, ["gradient_norm"]) as monitor:
        for _ in range(6):
            monitor.step(model)
        state = monitor.state_dict()
    with monitored(tmp_path / "again", ["gradient_norm"]) as again:
        again.load_state_dict(state)
        assert again.step(model) == [] and len(again.step(model)) == 2
    assert [row["step"] for row in again.rows] == [8, 8]


@pytest.mark.parametrize("how", ["state", "step"])
def test_a_training_that_is_set_back_replaces_its_later_steps(tmp_path, how):
    model = network()

    def moved():
        with torch.no_grad():
            model[0].weight += 0.01
        return model

    with monitored(tmp_path, ["gradient_norm"], every=1) as monitor:
        for _ in range(5):
            monitor.step(moved())
        with pytest.warns(AcutanceWarning, match="its steps take their places"):
            if how == "state":
                monitor.load_state_dict({"step": 2, "epoch": 0})
            else:
                assert monitor.step(moved(), step=2) == []
            monitor.step(moved())
    assert list(pd.read_csv(tmp_path / "run" / "models.csv")["attr.step"]) == [1, 2, 3]


def test_a_budget_puts_measurements_off_and_says_so(tmp_path, monkeypatch):
    model = network()
    with monitored(tmp_path, ["gradient_norm"], every=1, budget=1e-6) as monitor:
        with pytest.warns(AcutanceWarning, match="put off from step 2 on"):
            measured = [bool(monitor.step(model)) for _ in range(5)]
    assert measured == [True, False, False, False, False]


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measures": "gradient_norm"}, "give a list"),
        ({"measures": ["gradient_nrom"]}, "gradient_norm"),
        ({"measures": [{"name": "gradient_norm", "every": 0}]}, r"measures\.0\.every"),
        ({"measures": ["disagreement"]}, "compares models"),
        ({"points": (torch.zeros(4, 6), None)}, "no targets"),
        ({"run": "a/b"}, "no plain name"),
        ({"attributes": {"step": 3}}, "'step'"),
        ({"attributes": {"w": [1]}}, "'w' is list"),
        ({"targets": ["test_error"]}, "test"),
        ({"surface": {"m": 100}}, "m"),
        ({"sinks": ["nowhere"]}, "nowhere"),
    ],
)
def test_mistakes_are_told_before_training_begins(tmp_path, changes, said):
    options = {"measures": ["gradient_norm"], "points": points(32), **changes}
    with pytest.raises(UserError, match=said):
        Monitor(options.pop("measures"), options.pop("points"), out=tmp_path / "run", **options)


def test_what_is_logged_must_be_single_numbers_and_the_rest_is_measured(tmp_path):
    model = network()
    with monitored(tmp_path, ["gradient_norm"], every=1) as monitor, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rows = monitor.step(model, loss=torch.zeros(3), accuracy=0.5)
        assert len(rows) == 2 and "attr.loss" not in rows[0] and rows[0]["attr.accuracy"] == 0.5
        assert len(monitor.step(model, loss=torch.tensor(2.5), epoch=0.5, size=np.float32(3), done=np.bool_(True))) == 2
    assert ["'loss' cannot be logged" in str(w.message) for w in told] == [True]
    assert (monitor.rows[2]["attr.loss"], monitor.rows[2]["attr.epoch"]) == (2.5, 0.5)
    assert (monitor.rows[2]["attr.size"], monitor.rows[2]["attr.done"]) == (3, True)


def test_attributes_may_be_numbers_of_numpy(tmp_path):
    with monitored(tmp_path, ["gradient_norm"], attributes={"width": np.int64(3), "share": np.float32(0.5)}) as monitor:
        row = monitor.start(network())[0]
    assert (row["attr.width"], row["attr.share"]) == (3, 0.5)
