"""Passes of a launch-bound model recorded as CUDA graphs: values, weights and random state are those without."""

import pytest
import torch
from models import MLP, Attention, assert_untouched, conv_data, mlp_data, positive_eps, snapshot, token_data

import acutance
from acutance import LossSurface
from acutance.surface import replay

pytestmark = pytest.mark.gpu

CASES = {"mlp": (MLP, mlp_data), "conv_bn": (positive_eps, conv_data), "attention": (Attention, token_data)}
SEARCH = {"rho": 0.3, "steps": 12}
# In another stream cuBLAS may split a product in another way: float64 to rounding, and a search follows its gradients.
SAME = 1e-9


@pytest.fixture
def recordings(monkeypatch):
    """Count the graphs that are recorded."""
    found, record = [], replay.recorded
    monkeypatch.setattr(replay, "recorded", lambda work, device: found.append(work) or record(work, device))
    return found


def measured(build, data, name, cuda_graphs, **fields):
    model = build().cuda().train()
    before, generator = snapshot(model), torch.cuda.get_rng_state()
    surface = LossSurface(model, data(), cuda_graphs=cuda_graphs)
    found = acutance.measure(name, surface, **fields)
    assert_untouched(model, before)
    assert torch.equal(torch.cuda.get_rng_state(), generator)
    return found, surface.notes


@pytest.mark.parametrize("logit_norm", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name, effort", [("worst_case", {"steps": 12}), ("average_case", {"draws": 12})])
@pytest.mark.parametrize("case", CASES)
def test_a_graph_changes_no_value(recordings, monkeypatch, case, name, effort, norm, logit_norm):
    monkeypatch.setattr("acutance.surface.loss_surface.go_together", lambda surface: False)
    monkeypatch.setattr(replay.Replay, "_launch_bound", lambda self: True)
    fields = {"rho": 0.3, "norm": norm, "logit_norm": logit_norm, **effort}
    alone, _ = measured(*CASES[case], name, False, **fields)
    assert not recordings
    found, notes = measured(*CASES[case], name, True, **fields)
    assert recordings and not notes
    assert found.value == pytest.approx(alone.value, rel=SAME)
    assert found.cost == alone.cost


class Reads(MLP):
    """Asks the device for a number in every pass."""

    def forward(self, x):
        return super().forward(x) * (1.0 if float(x.sum()) > -1e30 else 2.0)


def test_a_model_that_reads_values_goes_on_pass_by_pass(monkeypatch):
    monkeypatch.setattr(replay.Replay, "_launch_bound", lambda self: True)
    alone, _ = measured(Reads, mlp_data, "worst_case", False, **SEARCH)
    found, notes = measured(Reads, mlp_data, "worst_case", True, **SEARCH)
    assert found.value == pytest.approx(alone.value, rel=SAME)
    assert len(notes) == 1 and "not recordable" in notes[0]
    again, _ = measured(MLP, mlp_data, "worst_case", True, **SEARCH)  # the device is fit for more
    assert again.value == pytest.approx(alone.value, rel=SAME)


def test_a_small_network_waits_for_its_host(recordings):
    measured(MLP, mlp_data, "worst_case", True, **SEARCH)
    assert recordings


def test_the_memory_of_graphs_is_given_back():
    surface = LossSurface(MLP(), mlp_data(), device="cuda", cuda_graphs=True)
    acutance.measure("worst_case", surface, **SEARCH)
    surface.release()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    for _ in range(5):
        acutance.measure("worst_case", surface, **SEARCH)
        surface.release()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= held + (1 << 20)
