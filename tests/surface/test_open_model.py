"""A model is opened in one way, whoever asks: run, calibrate, check --time and measure."""

import json
from types import SimpleNamespace

import pytest
import torch
from acme_toy.plugin import ToyData, ToyPool
from click.testing import CliRunner
from torch import nn

import acutance
from acutance.cli import cli
from acutance.measure import Cost
from acutance.study.config import load_config
from acutance.study.surface_config import SurfaceConfig
from acutance.surface.open_model import OpenModel, Surfaces
from acutance.workflows.calibration import calibrate
from acutance.workflows.timing import time_study

SAID = "model toy0 gives (dog, cat, eel), dataset toy has (cat, dog, eel)"


@pytest.fixture
def study(toy_config):
    return toy_config | {
        "pools": [{"name": "toy", "size": 2}], "targets": ["test_error"], "groups": [], "figures": {},
        "measures": [{"name": "average_case", "rho": 0.1, "draws": 2}],
    }  # fmt: skip


def by_run(study, tmp_path):
    found = acutance.run(study, tmp_path / "run", report=False)
    return " ".join(map(str, found.models["reason"]))


def by_calibrate(study, tmp_path):
    calibrate(load_config(study))
    return ""


def by_timing(study, tmp_path):
    time_study(load_config(study), Cost(forwards=3))
    return ""


def by_measure(study, tmp_path):
    options = [
        "--data",
        "toy:train",
        "--measure",
        "average_case",
        "--set",
        "rho=0.1",
        "--set",
        "draws=2",
        "-m",
        "16",
        "--json",
    ]
    found = CliRunner().invoke(cli, ["measure", "toy/toy0", *options])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.stderr or str(json.loads(found.stdout)["average_case"]["value"])


WAYS = pytest.mark.parametrize("way", [by_run, by_calibrate, by_timing, by_measure])


@WAYS
def test_classes_in_another_order_are_refused(study, way, monkeypatch, tmp_path):
    load = ToyPool.load

    def named(self, entry, spec):
        model = load(self, entry, spec)
        model.class_names = ("dog", "cat", "eel")
        return model

    monkeypatch.setattr(ToyPool, "load", named)
    way(study, tmp_path / "before")
    monkeypatch.setattr(ToyData, "labels", ("cat", "dog", "eel"))
    try:
        said = way(study, tmp_path)
    except acutance.UserError as error:
        said = error.message
    assert SAID in said.replace("toy1", "toy0")


@WAYS
def test_passes_are_cut_to_what_memory_holds(study, way, monkeypatch, tmp_path):
    asked = []

    def fitting(core, room):
        asked.append((core.n, room))
        return 4

    monkeypatch.setattr("acutance.surface.open_model.free_bytes", lambda device: 1200)
    monkeypatch.setattr("acutance.surface.open_model.fitting_microbatch", fitting)
    said = way(study, tmp_path)
    assert asked and set(asked) == {(16 if way is by_measure else 8, 1200)}
    assert (way is by_measure) == ("memory holds 4 of the 16 examples in one pass" in said)


@pytest.mark.parametrize("way", [by_run, by_calibrate, by_timing])
def test_statistics_are_those_that_the_study_asks_for(study, way, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "acutance.surface.open_model.recalibrated",
        lambda functional, batches: seen.append(len(list(batches))) or functional,
    )
    way(study, tmp_path / "as_it_is")
    assert not seen
    way(study | {"surface": {**study["surface"], "batch_norm": "recalibrate"}}, tmp_path)
    assert seen and set(seen) == {4}


def sets(x, y):
    split = type("Points", (), {"score": None, "inputs": x, "targets": y, "__len__": lambda self: len(y)})()
    return SimpleNamespace(
        validation="",
        sets=lambda *_: [(x, y)],
        batches=[(x, y)],
        split=lambda _: split,
        dataset=SimpleNamespace(name="here"),
    )


def test_memory_is_shared_between_processes_and_asked_for_once_a_model(monkeypatch):
    asked = []
    monkeypatch.setattr("acutance.surface.open_model.free_bytes", lambda device: 1200)
    monkeypatch.setattr("acutance.surface.open_model.fitting_microbatch", lambda core, room: asked.append(room) or 2)
    points, model = sets(torch.randn(8, 4), torch.arange(8) % 3), nn.Linear(4, 3)
    surfaces = Surfaces(OpenModel(model), points, SurfaceConfig(points=8, m=8), processes=4)
    assert [surfaces.on("train", scope, 0).microbatch for scope in ("points", "batch", "batch")] == [1000, 2, 2]
    assert asked == [300.0]
    given = Surfaces(OpenModel(model), points, SurfaceConfig(points=8, m=8, microbatch=3))
    assert given.on("train", "batch", 0).microbatch == 3 and len(asked) == 1


def test_where_parts_would_give_other_values_all_go_together(monkeypatch):
    monkeypatch.setattr("acutance.surface.open_model.free_bytes", lambda device: 1200)
    monkeypatch.setattr("acutance.surface.open_model.fitting_microbatch", lambda core, room: 2)
    opened = OpenModel(nn.Linear(4, 3))
    x, y = torch.randn(8, 4), torch.arange(8) % 3

    def spread(logits, targets):
        return logits.var() + nn.functional.cross_entropy(logits, targets)

    surface = acutance.LossSurface(opened.functional, (x, y), loss=spread)
    opened.fit(surface)
    assert surface.microbatch is None and opened.microbatch is None


def test_inputs_go_through_what_the_pool_says_and_targets_see_the_model_as_it_is():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    opened = OpenModel(model, preprocess=lambda: lambda inputs: 2 * inputs)
    surfaces = Surfaces(opened, sets(x, y), SurfaceConfig(points=8, m=8, batch_norm="recalibrate"))
    batch, whole = surfaces.on("train", "batch", 0), surfaces.on("train", "split", 0)
    assert torch.equal(batch.inputs, 2 * x) and torch.equal(whole.logits(), model(2 * x))
    z = model[0](2 * x)
    wanted = (z - z.mean(0)) / (z.var(0) + 1e-5).sqrt()
    assert torch.allclose(batch.logits(), wanted, atol=1e-5) and not torch.allclose(batch.logits(), whole.logits())
    surfaces.require_fit(["train"])
    with pytest.raises(acutance.UserError, match="dataset 'here', split 'train': the model does not take"):
        Surfaces(OpenModel(nn.Linear(5, 3)), sets(x, y), SurfaceConfig(points=8, m=8)).require_fit(["train"])


def test_measure_takes_an_open_model_with_what_memory_holds(monkeypatch):
    monkeypatch.setattr("acutance.surface.open_model.fitting_microbatch", lambda core, room: 2)
    points, model = (torch.randn(8, 4), torch.arange(8) % 3), nn.Linear(4, 3)
    opened, fields = OpenModel(model, dtype="float64"), {"rho": 0.1, "draws": 2, "m": 8}
    whole = acutance.measure("average_case", opened, points, **fields)
    assert whole.value == acutance.measure("average_case", model, points, dtype="float64", **fields).value
    opened.fit(acutance.LossSurface(opened.functional, points))
    seen = []
    monkeypatch.setattr(acutance.LossSurface, "check", lambda self, derived=False: seen.append(self.microbatch))
    acutance.measure("average_case", opened, points, **fields)
    acutance.measure("average_case", opened, points, microbatch=4, **fields)
    assert set(seen) == {2, 4} and seen[0] == 2
    with pytest.raises(acutance.UserError, match="an open model has its device and dtype already"):
        acutance.measure("average_case", opened, points, dtype="float32", **fields)
