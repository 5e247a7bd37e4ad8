"""What looks at the optimizer's next step, in trainings whose steps are not one of one optimizer after the other."""

import math
import warnings
from contextlib import nullcontext

import pytest
import torch
from tests.monitor.trainings import network, points
from torch import nn

import acutance
from acutance.errors import AcutanceWarning
from acutance.monitor import Monitor

UPDATE = [{"name": "critical_sharpness", "direction": "update"}]


def monitored(folder, **options):
    return Monitor(UPDATE, points(32, seed=5), **{"every": 1, "out": folder, "report": False, **options})


def backward(model):
    x, y = points()
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()


def found(monitor):
    return {row["step"]: row for row in monitor.rows if row["measure"] == "critical_sharpness"}


def expected(model, before, after):
    update = {name: after[name] - before[name] for name, _ in model.named_parameters()}
    other = network().eval()
    other.load_state_dict(before)
    return acutance.measure(
        "critical_sharpness", other, points(32, seed=5), direction="update", update=update
    ).value  # fmt: skip


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_several_monitors_and_hooks_of_others_on_one_optimizer(tmp_path):
    model, called = network(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with monitored(tmp_path / "a") as one, monitored(tmp_path / "b") as two:
        one.start(model, optimizer), two.start(model, optimizer)
        optimizer.register_step_post_hook(lambda *_: called.append(1))
        for _ in range(3):
            backward(model)
            optimizer.step()
            one.step(model, optimizer), two.step(model, optimizer)
    assert len(called) == 3
    assert [found(one)[k]["value"] for k in range(3)] == [found(two)[k]["value"] for k in range(3)]
    assert all(math.isfinite(found(one)[k]["value"]) for k in range(3))
    assert len(vars(optimizer)["_optimizer_step_post_hooks"]) == 1  # the monitors' are gone
    assert not vars(optimizer)["_optimizer_step_pre_hooks"]


def test_a_monitor_that_is_called_by_a_hook_of_the_optimizer(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with monitored(tmp_path) as monitor:
        optimizer.register_step_post_hook(lambda *_: monitor.step(model, optimizer))
        states = []
        for _ in range(3):
            backward(model)
            optimizer.step()
            states.append(state(model))
    assert found(monitor)[1]["value"] == expected(model, *states[:2])
    assert found(monitor)[2]["value"] == expected(model, *states[1:])


def test_weights_that_change_without_a_step_of_the_optimizer_are_no_step_of_it(tmp_path):
    model = network()
    with monitored(tmp_path) as monitor:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(4):
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.01
            monitor.step(model, optimizer)
            assert len(found(monitor)) == monitor.step_count - 1  # what waits holds a copy of the weights
    said = {k: row["message"] for k, row in found(monitor).items()}
    assert all("not by a step of the optimizer" in said[k] for k in (1, 2, 3)) and "ended" in said[4]
    assert {row["status"] for row in found(monitor).values()} == {"unsupported"}


@pytest.mark.parametrize("own_first", [True, False])
def test_the_step_of_another_networks_optimizer_is_none_of_this_one(tmp_path, own_first):
    generator, other = network(), nn.Linear(3, 3)
    own = torch.optim.SGD(generator.parameters(), lr=0.05)
    others = torch.optim.SGD(other.parameters(), lr=0.05)
    states = []
    with monitored(tmp_path) as monitor:
        for _ in range(3):
            backward(generator)
            other(torch.ones(1, 3)).sum().backward()
            for optimizer in (own, others) if own_first else (others, own):
                optimizer.step()
            states.append(state(generator))
            monitor.step(generator, others)
    row = found(monitor)[1]
    if own_first:  # by the time that the optimizer given steps the weights have made their step
        assert row["value"] == expected(generator, *states[:2])
    else:
        assert row["status"] == "unsupported" and "not by a step of the optimizer" in row["message"]


def test_of_two_optimizers_of_one_model_the_one_given_ends_the_step(tmp_path):
    model, states = network(), []
    one = torch.optim.SGD(model[0].parameters(), lr=0.05)
    two = torch.optim.SGD([*model[1].parameters(), *model[4].parameters()], lr=0.05)
    with monitored(tmp_path) as monitor:
        monitor.start(model, one)  # so that the monitor hears of the steps of both
        for told in (pytest.warns(AcutanceWarning, match="step 0: the weights moved again"), nullcontext()):
            backward(model)
            one.step(), two.step()
            states.append(state(model))
            with told:
                monitor.step(model, two)
    assert found(monitor)[1]["value"] == expected(model, *states)


@pytest.mark.parametrize(
    ("then", "is_told"),
    [("", False), ("other", True), ("clamp", True), ("own", False), ("other own", True), ("own other", False)],
)
def test_weights_that_move_again_behind_the_measured_step_are_told(tmp_path, then, is_told):
    """Two optimizers of one model, and not the last was given: its step is a part of that which the weights make."""
    model = network()
    given = torch.optim.SGD([*model[1].parameters(), *model[4].parameters()], lr=0.05)
    other = torch.optim.SGD(model[0].parameters(), lr=0.05)
    with monitored(tmp_path) as monitor, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = state(model)
        monitor.start(model, given)
        backward(model)
        given.step()
        after = state(model)
        for what in then.split():  # before the monitor is told of a step
            if what == "clamp":
                with torch.no_grad():
                    model[4].weight.clamp_(-0.01, 0.01)
            else:
                (given if what == "own" else other).step()
        monitor.step(model, given)
        backward(model)
        given.step()
    assert found(monitor)[0]["value"] == expected(model, before, after)
    assert ["step 0: the weights moved again" in str(w.message) for w in told] == [True] * is_told


def test_a_step_that_changes_nothing_is_none(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with monitored(tmp_path) as monitor:
        monitor.start(model, optimizer)
        before = state(model)
        for rate in (0.0, 0.1):
            optimizer.param_groups[0]["lr"] = rate
            backward(model)
            optimizer.step()
            assert (0 in found(monitor)) == bool(rate)
    assert found(monitor)[0]["value"] == expected(model, before, state(model))


def test_an_average_of_weights_has_no_step(tmp_path):
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with monitored(tmp_path) as monitor, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            backward(model)
            optimizer.step()
            average.update_parameters(model)
            monitor.step(average, optimizer)
    assert "an average of weights has none" in found(monitor)[1]["message"]
    assert {row["status"] for row in found(monitor).values()} == {"unsupported"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_mode_that_the_optimizer_steps_in_changes_no_value(tmp_path, mode):
    values = []
    for inside in (torch.enable_grad, mode):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with monitored(tmp_path / str(len(values))) as monitor:
            monitor.start(model, optimizer)
            backward(model)
            with inside():
                optimizer.step()
        values.append(found(monitor)[0]["value"])
    assert math.isfinite(values[0]) and values[0] == values[1]
