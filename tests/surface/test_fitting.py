"""Passes are cut before memory runs out: how many examples fit is read off a probe over a few."""

import pytest
import torch
from models import MLP, mlp_data
from torch import nn

import acutance
from acutance import LossSurface
from acutance.surface.fitting import fitting_microbatch
from acutance.system.memory import free_bytes
from acutance.system.progress import Silent

WIDTH = 1000


@pytest.fixture
def core():
    """A core of 64 examples, each of which keeps two vectors of 1000 numbers for the backward."""
    model = nn.Sequential(nn.Linear(4, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, 3))
    x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
    surface = LossSurface(model, (x, y))
    surface.check()
    return surface.core


def test_all_go_together_where_they_fit(core):
    before = core.known.ledger.forwards
    assert fitting_microbatch(core, 1e12) is None
    assert fitting_microbatch(core, None) is None
    assert core.known.ledger.forwards == before


@pytest.mark.parametrize("fit", [2, 7, 16, 33])
def test_the_largest_power_of_two_that_fits(core, fit):
    # An example keeps two activations, which a sigmoid's backward and a product's share; the inputs are one memory.
    kept, inputs = 4 * 2 * WIDTH, 4 * 4 * core.n
    room = 2 * 2 * (kept * (fit + 0.01) + inputs)  # a pass may take half of it, and a backward as much again
    assert fitting_microbatch(core, room) == 1 << fit.bit_length() - 1


def test_one_at_least(core):
    assert fitting_microbatch(core, 1.0) == 1


def test_the_value_is_that_of_one_pass(core):
    x, y = core.inputs, core.targets
    whole, cut = LossSurface(core.functional.model, (x, y)), LossSurface(core.functional.model, (x, y))
    cut.microbatch = fitting_microbatch(core, 1e5)
    assert cut.microbatch < 64
    torch.testing.assert_close(cut.gradient()[1], whole.gradient()[1], rtol=1e-5, atol=1e-7)


def test_a_model_that_mixes_examples_is_never_cut():
    class Mixing(MLP):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    surface = LossSurface(Mixing(), mlp_data())
    surface.check()
    assert fitting_microbatch(surface.core, 1.0) is None


def test_free_memory_is_a_number_of_this_machine():
    found = free_bytes(torch.device("cpu"))
    assert found is None or 1e6 < found < 1e14


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def test_a_run_cuts_what_does_not_fit_says_so_and_finds_the_same(monkeypatch, tmp_path):
    models = {"a": MLP().float(), "b": MLP().float()}
    x, y = mlp_data()
    settings = {
        "data": (x.float(), y), "targets": {"test_error": [0.1, 0.2]}, "report": False,
        "measures": [{"name": "average_case", "rho": 0.1, "draws": 3}], "surface": {"points": 16, "m": 16, "select": "first"},
    }  # fmt: skip
    whole = acutance.study(models, **settings, out=tmp_path / "whole")
    monkeypatch.setattr("acutance.surface.open_model.free_bytes", lambda device: 1.0)
    said = Said()
    cut = acutance.study(models, **settings, out=tmp_path / "cut", reporter=said)
    assert any("memory holds 1 of the 16 examples" in line for line in said.lines)
    found = [run.results.query("measure == 'average_case'")["value"].tolist() for run in (whole, cut)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
