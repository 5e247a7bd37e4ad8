"""Measures that compare with the weights that a training started from, also where it goes on after a break."""

import warnings

import pytest
import torch
from tests.monitor.trainings import network, points, stepped

from acutance.errors import AcutanceWarning
from acutance.monitor import Monitor, initial


def monitored(folder):
    return Monitor(["distance_from_initialization"], points(32, seed=5), every=2, out=folder, report=False)


def go(monitor, model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    stepped(monitor, model, optimizer, steps)


def rows(monitor):
    return {row["step"]: row for row in monitor.rows if row["measure"] == "distance_from_initialization"}


def distance(model, first):
    changes = [(p.detach() - first[name]).double().flatten() for name, p in model.named_parameters()]
    return float(torch.cat(changes).norm())


@pytest.mark.parametrize("start", [True, False])
def test_a_training_that_goes_on_compares_with_where_it_began(tmp_path, start):
    model = network()
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    with monitored(tmp_path) as monitor:
        monitor.start(model)
        go(monitor, model, 4)
        state = monitor.state_dict()
    with monitored(tmp_path) as again:
        again.load_state_dict(state)
        if start:
            assert again.start(model)[-1]["value"] == pytest.approx(distance(model, first), rel=1e-6)
        go(again, model, 2)
    assert rows(again)[6]["value"] == pytest.approx(distance(model, first), rel=1e-6)
    assert rows(again)[6]["value"] > rows(monitor)[4]["value"] > 0


def test_one_that_begins_anew_begins_with_its_own_weights(tmp_path):
    with monitored(tmp_path) as monitor:
        monitor.start(network())
    with torch.no_grad():
        (other := network())[0].weight += 1
    with monitored(tmp_path) as again:
        assert again.start(other)[-1]["value"] == 0


@pytest.mark.parametrize("resumed", [True, False])
def test_weights_that_nobody_kept_are_not_known(tmp_path, resumed):
    model = network()
    with monitored(tmp_path) as monitor:
        if resumed:
            monitor.load_state_dict({"step": 4, "epoch": 0})
            monitor.start(model)
        go(monitor, model, 2)
    assert {row["status"] for row in rows(monitor).values()} == {"unsupported"}
    assert all("call monitor.start before its first step" in row["message"] for row in rows(monitor).values())


def test_weights_that_cannot_be_kept_or_read_are_told_and_training_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(initial, "put", full)
        with monitored(tmp_path) as monitor, pytest.warns(AcutanceWarning, match="not kept.*no space left"):
            assert monitor.start(network())[-1]["value"] == 0
    (tmp_path / ".initial-training.safetensors").write_bytes(b"nonsense")
    with monitored(tmp_path) as again:
        with pytest.warns(AcutanceWarning, match="cannot be read"):
            again.load_state_dict({"step": 4, "epoch": 0})


def test_a_monitor_that_is_closed_measures_nothing_and_says_nothing_but_at_a_start(tmp_path):
    monitor = monitored(tmp_path)
    monitor.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.step(network()) == monitor.epoch(network()) == []
    with pytest.warns(AcutanceWarning, match=r"it was closed, and measures no second training \(give"):
        assert monitor.start(network()) == []
