"""``acutance landscape``, and points computed by an executor's workers."""

import json
import os

import numpy as np
import pytest
import torch
from shell import cli

import acutance
from acutance import Landscape
from acutance.errors import UserError
from acutance.run.jobs import Call, Called, Failed, read_job, read_outcome, write
from acutance.run.worker import execute
from acutance.workflows.landscape import pictures, remote
from acutance.workflows.landscape.slices import Slices

NETS = """
import torch
from torch import nn

def net(width=4, seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(4 * width, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with networks, checkpoints and points."""
    (tmp_path / "landscape_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "files", lambda seen: {})
    import landscape_nets

    for seed in (1, 2, 3):
        torch.save(landscape_nets.net(seed=seed).state_dict(), tmp_path / f"net{seed}.pt")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, 4, 4, generator=generator), torch.arange(40) % 3
    arrays = {"x_train": x[:24], "y_train": y[:24], "x_test": x[24:] + 1, "y_test": y[24:]}
    np.savez(tmp_path / "points.npz", **{name: array.numpy() for name, array in arrays.items()})
    return tmp_path


MODEL = ("landscape_nets:net", "--weights", "net1.pt", "--data", "points.npz:train", "--quiet", "--grid", 3)


def test_the_verb_draws_what_python_draws(place):
    out = cli("landscape", *MODEL, "--data", "shift=points.npz:test", "--out", "seen")
    assert (
        "normalized by filter" in out.stdout and "9 points computed" in out.stdout and "shift: loss from" in out.stdout
    )
    import landscape_nets

    held = np.load("points.npz")
    data = {"train": (held["x_train"], held["y_train"]), "shift": (held["x_test"], held["y_test"])}
    wanted = acutance.landscape(landscape_nets.net(seed=1), data, grid=3)
    seen = Landscape.load("seen")
    assert seen.table.equals(wanted.table) and seen.about["carries"] == wanted.about["carries"]
    assert (place / "seen" / "landscape.html").read_text().count("shift") == 1
    again = cli("landscape", *MODEL, "--data", "shift=points.npz:test", "--out", "seen", "--json")
    assert json.loads(again.stdout)["computed"] == 0


def test_every_kind_has_its_options(place):
    options = ("--no-curvature", "--dtype", "float64")
    cli("landscape", *MODEL, *options, "--directions", "gradient,random", "--move-vectors", "--out", "a")
    assert [axis["name"] for axis in Landscape.load("a").about["axes"]] == ["gradient", "random 1"]
    assert "not asked for" in Landscape.load("a").about["carries"]
    cli(
        "landscape",
        *MODEL,
        *options,
        "--directions",
        "worst_case",
        "--set",
        "rho=0.1",
        "--set",
        "steps=2",
        "--out",
        "b",
    )
    assert Landscape.load("b").about["settings"] == {"rho": 0.1, "steps": 2}
    found = cli("landscape", *MODEL, *options, "--directions", "segment", "--checkpoint", "net2.pt", "--out", "c")
    assert "barrier" in found.stdout and list(Landscape.load("c").about["marks"]) == ["model", "net2"]
    pair = ("--checkpoint", "net2.pt", "--checkpoint", "net3.pt")
    cli("landscape", *MODEL, *options, "--directions", "plane", *pair, "--out", "d")
    cli("landscape", *MODEL, *options, "--directions", "pca", *pair, "--batch-norm", "eval", "--out", "e")
    assert Landscape.load("e").about["batch_norm"] == "eval" and len(Landscape.load("e").about["path"]) == 3
    cli("landscape", *MODEL, *options, "--draws", 2, "--normalize", "layer", "--extent", 0.5, "--out", "f")
    assert len(Landscape.load("f").table) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--grid", 1), "grid: should be a whole number from 2"),
        (("--extent", 0), "extent: should be a finite number above 0"),
        (("--extent", "nan"), "extent: should be a finite number above 0"),
        (("--directions", "rnadom"), "did you mean 'random'"),
        (("--directions", "segment"), "needs 1 checkpoints"),
        (("--directions", "segment", "--checkpoint", "nowhere.pt"), "there is no such file"),
        (("--directions", "segment", "--checkpoint", "landscape_nets.py"), "--checkpoint landscape_nets.py"),
        (("--data", "points.npz:train"), "'train' is given twice"),
        (("--data", "points.npz:nothing"), "known: test, train"),
        (("--executor", "serail"), "serial"),
        (("--executor", "processes", "--executor-arg", "workers=0"), "workers"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(place, options, words):
    out = cli("landscape", *MODEL, *options, "--out", "seen", code=2)
    assert words in out.stderr and "Traceback" not in out.stderr


def test_values_that_are_all_lost_are_code_1(place):
    out = cli(
        "landscape", *MODEL, "--arg", "scale=1", "--extent", 1e30, "--grid", 2, "--no-curvature", "--out", "x", code=1
    )
    assert "not finite" in out.stderr


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_an_executor_gives_the_values_of_this_process(place, executor, monkeypatch):
    common = ("--directions", "eigenvectors", "--data", "points.npz:test", "--batch-norm", "recalibrated")
    cli("landscape", *MODEL, *common, "--out", "here")
    extra = ("--executor-arg", "workers=2") if executor == "processes" else ()
    driver = os.getpid()

    def nowhere(self, frame, place, made=Slices.at):
        assert executor == "serial" or os.getpid() != driver
        return made(self, frame, place)

    monkeypatch.setattr(Slices, "at", nowhere)
    cli("landscape", *MODEL, *common, "--out", "there", "--executor", executor, *extra)
    here, there = Landscape.load("here").table, Landscape.load("there").table
    assert list(here["a"]) == list(there["a"]) and here["error"].equals(there["error"])
    np.testing.assert_allclose(here["loss"], there["loss"], rtol=1e-6)


def test_lines_of_several_draws_are_computed_by_workers(place):
    cli("landscape", *MODEL, "--draws", 2, "--out", "here", "--no-curvature")
    cli("landscape", *MODEL, "--draws", 2, "--out", "there", "--no-curvature", "--executor", "serial")
    here, there = Landscape.load("here").table, Landscape.load("there").table
    assert here.equals(there)
    assert here["loss"].nunique() > 4


def test_a_model_in_memory_has_no_executor(place):
    with pytest.raises(UserError, match="by their names"):
        acutance.landscape(
            torch.nn.Linear(2, 2), (torch.ones(4, 2), torch.zeros(4).long()), executor={"name": "serial"}
        )
    with pytest.raises(UserError, match="goes with points that are"):
        acutance.landscape("landscape_nets:net", (torch.ones(4, 2), torch.zeros(4).long()))
    seen = acutance.landscape("landscape_nets:net", {"train": "points.npz:train"}, grid=2, curvature=False)
    assert seen.splits == ["train"]


def doubled(payload, device):
    yield {"twice": 2 * payload["x"], "device": device}
    if payload["x"] == 0:
        raise UserError("nothing to double", "give more")


ENDS = """
import os, signal
from pathlib import Path
from acutance.workflows.landscape import remote

def serve(payload, device, made=remote.serve):
    for i, found in enumerate(made(payload, device)):
        yield found
        if not Path({mark!r}).exists():
            Path({mark!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_dies_costs_no_more_than_its_points(place, monkeypatch):
    (place / "landscape_ends.py").write_text(ENDS.format(mark=str(place / "died")))
    monkeypatch.setattr(remote, "SERVE", "landscape_ends:serve")
    options = ("--executor", "processes", "--executor-arg", "workers=1", "--no-curvature")
    cli("landscape", *MODEL, *options, "--out", "there")
    cli("landscape", *MODEL, "--no-curvature", "--out", "here")
    assert (place / "died").exists()
    np.testing.assert_allclose(Landscape.load("here").table["loss"], Landscape.load("there").table["loss"], rtol=1e-6)


def test_a_call_is_a_job_like_any_other():
    call = Call(id="one", function=f"{__name__}:doubled", payload={"x": 2}, device="cpu")
    assert read_job(write(call)) == call
    (outcome,) = map(read_outcome, execute(write(call)))
    assert outcome == Called(job="one", payload={"twice": 4, "device": "cpu"})
    (first, last) = map(
        read_outcome,
        execute(write(Call(id="two", function=f"{__name__}:doubled", payload={"x": 0}, device="cpu")), "cuda"),
    )
    assert first.payload["device"] == "cuda" and isinstance(last, Failed) and "nothing to double" in last.message
    (lost,) = map(read_outcome, execute(write(Call(id="x", function="nowhere:f", payload={}, device="cpu"))))
    assert isinstance(lost, Failed) and "cannot be imported" in lost.message
