"""Points: each has one value whatever grid it is in, is computed once, and leaves the model as it was."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from models import MLP, ConvBN, assert_untouched, conv_data, mlp_data, snapshot
from torch import nn

import acutance
from acutance import Landscape, LossSurface
from acutance.errors import UserError
from acutance.workflows.landscape import pictures, slices
from acutance.workflows.landscape.frames import Axis, Place, local
from acutance.workflows.landscape.slices import Slices


def by_place(seen):
    return {(row.a, row.b, row.split): (row.loss, row.error) for row in seen.table.itertuples()}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "files", lambda seen: {})


def plain():
    """Return a network whose points go together."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).double()


@pytest.mark.parametrize(("net", "points"), [(plain, mlp_data), (ConvBN, conv_data)], ids=["together", "one by one"])
def test_a_value_is_bitwise_the_same_in_every_grid(net, points):
    model, data = net(), points()
    assert (LossSurface(model, data).many_points(4) is not None) == (net is plain)
    small = by_place(acutance.landscape(model, data, grid=3, extent=0.5, curvature=False))
    large = by_place(acutance.landscape(model, data, grid=9, extent=1.0, curvature=False))
    assert len(small) == 9 and small.items() <= large.items()


def test_a_value_is_bitwise_the_same_in_every_order():
    surface = LossSurface(plain(), mlp_data())
    axes = [Axis("d", torch.randn(surface.size, dtype=torch.float64)) for _ in range(2)]
    frame = local(surface, "", axes, {})
    places = [Place(0.1 * i, -0.2 * j) for i in range(9) for j in range(9)]
    forth = dict(Slices({"x": surface}).readings(frame, places))
    back = dict(Slices({"x": surface}).readings(frame, places[::-1]))
    few = dict(Slices({"x": surface}).readings(frame, places[3:5]))
    assert forth == back and few.items() <= forth.items()


def test_points_together_are_the_points_one_by_one():
    model, data = plain(), mlp_data()
    together = acutance.landscape(model, data, grid=5, curvature=False).grid()[2]
    alone = acutance.landscape(model, data, grid=5, curvature=False, microbatch=3).grid()[2]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("kind", ["random", "gradient", "eigenvectors", "worst_case", "segment"])
@pytest.mark.parametrize("batch_norm", ["eval", "recalibrated"])
def test_the_model_is_left_as_it_was(kind, batch_norm):
    model, other, data = ConvBN(), ConvBN(), conv_data()
    with torch.no_grad():
        other.bn1.weight.add_(1)
    model.train()
    before, beside = snapshot(model), snapshot(other)
    extra = {"worst_case": {"settings": {"rho": 0.1, "steps": 2}}, "segment": {"checkpoints": [other]}}.get(kind, {})
    acutance.landscape(model, {"train": data, "again": data}, kind, grid=3, batch_norm=batch_norm, **extra)
    assert_untouched(model, before)
    assert_untouched(other, beside)


def test_statistics_are_recalibrated_on_the_first_split_at_every_point():
    model, data = ConvBN(), conv_data()
    other = (data[0] * 2 + 1, data[1])
    seen = acutance.landscape(model, {"train": data, "shift": other}, "gradient", grid=3, batch_norm="recalibrated",
                              curvature=False)  # fmt: skip
    surface = LossSurface(model, data)
    _, gradient = surface.gradient()
    there = surface.recalibrated(surface.w - gradient)
    shift = LossSurface(model, other).with_buffers(there.buffers)
    for split, wanted in (("train", there), ("shift", shift)):
        assert seen.grid(split)[2][0, 0] == pytest.approx(float(wanted.loss(surface.w - gradient)), rel=1e-12)
    assert seen.about["batch_norm"] == "recalibrated"


def test_planes_among_checkpoints_are_recalibrated_unless_told_otherwise():
    torch.manual_seed(0)
    models = [ConvBN() for _ in range(3)]
    for i, model in enumerate(models):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * i * torch.randn_like(p))
    options = {"checkpoints": models[1:], "grid": 2, "curvature": False}
    seen = acutance.landscape(models[0], conv_data(), "plane", **options)
    assert seen.about["batch_norm"] == "recalibrated"
    seen = acutance.landscape(models[0], conv_data(), "plane", batch_norm="eval", **options)
    assert seen.about["batch_norm"] == "eval" and "stale statistics" in " ".join(seen.notes)


def test_what_is_stored_is_not_computed_again(tmp_path, monkeypatch):
    model, data = ConvBN(), conv_data()
    first = acutance.landscape(model, data, grid=3, out=tmp_path, curvature=False)
    assert first.computed == 9
    forwards = []
    monkeypatch.setattr(Slices, "at", counting(Slices.at, forwards))
    again = acutance.landscape(model, data, grid=5, out=tmp_path, curvature=False)
    # A grid of 5 has the 9 points of the grid of 3 among its 25.
    assert again.computed == len(forwards) == 16
    same = acutance.landscape(model, data, grid=5, out=tmp_path, curvature=False)
    assert same.computed == 0 and same.table.equals(again.table)
    fresh = acutance.landscape(model, data, grid=5, curvature=False)
    assert fresh.table.equals(again.table)


def counting(function, calls):
    def counted(self, frame, place):
        calls.append(place)
        return function(self, frame, place)

    return counted


def test_another_split_loss_statistic_or_seed_has_values_of_its_own(tmp_path):
    model, data = ConvBN(), conv_data()
    options = {"grid": 2, "out": tmp_path, "curvature": False}
    assert acutance.landscape(model, data, **options).computed == 4
    assert acutance.landscape(model, (data[0] + 1, data[1]), **options).computed == 4
    assert acutance.landscape(model, data, seed=1, **options).computed == 4
    assert acutance.landscape(model, data, batch_norm="recalibrated", **options).computed == 4
    assert acutance.landscape(model, data, normalize="layer", **options).computed == 4
    assert acutance.landscape(model, data, dtype="float32", **options).computed == 4
    assert acutance.landscape(model, data, fixed_vectors=False, **options).computed == 4
    assert acutance.landscape(model, data, parameters="*conv*", **options).computed == 4
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    assert acutance.landscape(model, data, **options).computed == 4
    assert acutance.landscape(model, data, **options).computed == 0


def test_a_segment_to_other_statistics_has_values_of_its_own(tmp_path):
    torch.manual_seed(1)
    model, other, data = ConvBN(), ConvBN(), conv_data()
    with torch.no_grad():
        next(other.parameters()).add_(0.1)

    def drawn(**options):
        return acutance.landscape(model, data, "segment", checkpoints=[other], grid=3, curvature=False, **options)

    assert drawn(out=tmp_path).computed == 3
    assert drawn(out=tmp_path).computed == 0
    next(buffer for name, buffer in other.named_buffers() if "running_var" in name).mul_(3)
    assert drawn(out=tmp_path).table.equals(drawn().table)


def test_statistics_of_other_points_have_values_of_their_own_on_every_split(tmp_path):
    model, (x, y) = ConvBN(), conv_data()
    # Random directions depend on no points, so of the second split the statistics alone are others.
    drawn = [
        acutance.landscape(
            model, {"first": (x + moved, y), "second": (x, y)}, grid=2, batch_norm="recalibrated", curvature=False, out=out
        ).table.query("split == 'second'")["loss"]
        for moved, out in ((0, tmp_path), (3 * x.abs(), tmp_path), (3 * x.abs(), None))
    ]  # fmt: skip
    assert drawn[1].equals(drawn[2]) and not drawn[0].equals(drawn[1])


def test_values_with_statistics_of_other_points_do_not_take_the_place_of_ones_own(tmp_path):
    model, (x, y) = ConvBN(), conv_data()
    alone, moved = {"alone": (x, y)}, {"moved": (x + 3 * x.abs(), y), "alone": (x, y)}
    drawn = [
        acutance.landscape(model, data, grid=2, batch_norm="recalibrated", curvature=False, out=tmp_path).table
        for data in (alone, moved, alone)
    ]
    assert drawn[2].equals(drawn[0])
    assert not drawn[1].query("split == 'alone'")["loss"].reset_index(drop=True).equals(drawn[0]["loss"])


def test_a_direction_of_another_version_of_its_measure_is_made_anew(tmp_path, monkeypatch):
    from acutance.plugins import catalog

    model, data = plain(), mlp_data()
    options = {"grid": 3, "settings": {"rho": 0.05, "steps": 2}, "out": tmp_path, "curvature": False}
    assert acutance.landscape(model, data, "worst_case", **options).computed == 3
    assert acutance.landscape(model, data, "worst_case", **options).computed == 0
    measure = catalog().find("measures", "worst_case").target
    monkeypatch.setattr(measure, "version", measure.version + 1)
    assert acutance.landscape(model, data, "worst_case", **options).computed == 3


class Interrupted(Exception):
    pass


def test_an_interrupted_landscape_goes_on_where_it_was(tmp_path, monkeypatch):
    model, data = ConvBN(), conv_data()
    calls = []

    def fails(self, frame, place, made=Slices.at):
        if len(calls) == 7:
            raise Interrupted
        calls.append(place)
        return made(self, frame, place)

    with monkeypatch.context() as patched:
        patched.setattr(slices.Slices, "at", fails)
        with pytest.raises(Interrupted):
            acutance.landscape(model, data, grid=4, out=tmp_path, curvature=False)
    again = acutance.landscape(model, data, grid=4, out=tmp_path, curvature=False)
    assert again.computed == 16 - 7
    assert again.table.equals(acutance.landscape(model, data, grid=4, curvature=False).table)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch, acutance
from models import ConvBN, conv_data
from acutance.workflows.landscape import values
from acutance.workflows.landscape.slices import Slices
values.EVERY = 0.0
made, calls = Slices.at, []
def dies(self, frame, place):
    calls.append(place)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(self, frame, place)
Slices.at = dies
acutance.landscape(ConvBN(), conv_data(), grid=4, out=sys.argv[1], curvature=False)
"""


def test_a_killed_landscape_computes_only_what_is_missing(tmp_path):
    tests = os.path.dirname(os.path.dirname(__file__))
    child = subprocess.run([sys.executable, "-c", KILLED.format(tests=tests), tmp_path], capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    again = acutance.landscape(ConvBN(), conv_data(), grid=4, out=tmp_path, curvature=False)
    assert again.computed == 16 - 5
    assert again.table.equals(acutance.landscape(ConvBN(), conv_data(), grid=4, curvature=False).table)


def test_eigenvectors_are_made_once(tmp_path, monkeypatch):
    from acutance.workflows.landscape import directions

    model, data = MLP(), mlp_data()
    first = acutance.landscape(model, data, "eigenvectors", grid=2, out=tmp_path, curvature=False)
    monkeypatch.setattr(directions, "top_eigenvectors", None)
    again = acutance.landscape(model, data, "eigenvectors", grid=4, out=tmp_path, curvature=False)
    assert again.computed == 12 or again.computed == 16  # the corners are shared
    rows = by_place(first)
    assert rows.items() <= by_place(again).items()


def test_a_landscape_is_saved_and_read_back_bit_by_bit(tmp_path):
    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[1.0, 2.0]]))

        def forward(self, x):
            return (x @ self.w.T * 1e30) @ self.w * 1e30

    data = (torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
    seen = acutance.landscape(Overflows(), data, grid=3, extent=1e3, out=tmp_path, curvature=False)
    assert (seen.table["status"] == "nonfinite").any() and "not finite" in " ".join(seen.notes)
    back = Landscape.load(tmp_path)
    assert back.table.equals(seen.table) and back.about == seen.about
    assert json.loads((tmp_path / "landscape.json").read_text())["format"] == 1
    with pytest.raises(UserError, match="holds no landscape"):
        Landscape.load(tmp_path / "nothing")
    (tmp_path / "landscape.json").write_text("{}")
    with pytest.raises(UserError, match="no landscape of this version"):
        Landscape.load(tmp_path)
