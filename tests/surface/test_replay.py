"""Passes recorded once and replayed: the same values and passes, whatever is overwritten by the next one.

Here a graph is played by the work itself, made again into the memory that it returned first, with that memory spoilt in
between; ``tests/gpu/test_replay.py`` records real ones.
"""

import pytest
import torch
from host_reads import as_on_an_accelerator
from models import MLP, Attention, ConvBN, assert_untouched, conv_data, mlp_data, snapshot, token_data

import acutance
from acutance import LossSurface
from acutance.data.lazy import Lazy
from acutance.numerics.slopes import Slope
from acutance.surface import replay
from acutance.surface.core import Core
from acutance.surface.moving_point import MovingPoint, moving_point
from acutance.surface.replay import WARM_UP, Replay

CPU = torch.device("cpu")
CASES = {"mlp": (MLP, mlp_data), "conv_bn": (ConvBN, conv_data), "attention": (Attention, token_data)}


class Mark:
    """A device's answer to whether it has come so far."""

    def __init__(self, passed=True):
        self.passed = passed

    def query(self):
        return self.passed


@pytest.fixture
def recordings(monkeypatch):
    """Let the CPU pass for a GPU that waits for its host; returns the works that were recorded."""
    found = []

    def recorded(work, device):
        kept = work()
        found.append(work)

        def again():
            for tensor in kept:
                tensor.fill_(float("nan"))
            for tensor, new in zip(kept, work(), strict=True):
                tensor.copy_(new)
            return kept

        return again

    as_on_an_accelerator(monkeypatch)
    monkeypatch.setattr(replay, "recorded", recorded)
    monkeypatch.setattr(replay, "mark_of", lambda device: Mark())
    monkeypatch.setattr(Core, "replays", property(lambda core: core._cuda_graphs))
    monkeypatch.setattr(Slope, "snapshot", lambda slope: Slope([part.clone() for part in slope.parts], slope.c))
    return found


@pytest.mark.parametrize(
    "name, fields",
    [
        ("worst_case", {"norm": norm, "steps": 9, **more})
        for norm in ("l2", "linf")
        for more in ({}, {"logit_norm": True}, {"mode": "released"}, {"restarts": 2}, {"ladder": [0.1], "start": "random"})
    ]
    + [
        ("average_case", {"norm": norm, "draws": 8, "variance_reduction": kind})
        for norm in ("l2", "linf")
        for kind in ("none", "linear", "antithetic")
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("case", CASES)
def test_a_replayed_walk_reaches_what_it_reaches_pass_by_pass(recordings, monkeypatch, case, name, fields):
    monkeypatch.setattr("acutance.surface.loss_surface.go_together", lambda surface: False)
    build, data = CASES[case]
    found = {}
    for cuda_graphs in (False, True):
        surface = LossSurface(build(), data(), cuda_graphs=cuda_graphs)
        before = snapshot(surface.model)
        found[cuda_graphs] = acutance.measure(name, surface, rho=0.3, **fields)
        assert_untouched(surface.model, before)
        assert bool(recordings) is cuda_graphs
    assert found[True].value == found[False].value != 0
    assert found[True].cost == found[False].cost
    assert found[True].extras == found[False].extras


def test_all_walks_of_a_surface_share_one_recording(recordings):
    surface = LossSurface(MLP(), mlp_data(24), cuda_graphs=True)
    measure = acutance.plugins.catalog().measure("worst_case")
    specs = [measure.Spec(rho=rho, norm=norm, scaling=scaling, steps=6, start="zero")
             for rho in (0.1, 0.2) for norm in ("l2", "linf") for scaling in ("none", "elementwise")]  # fmt: skip
    for spec in specs:
        measure.evaluate(surface, spec, acutance.Streams(0, "digest", 0, "worst_case"))
    assert len(recordings) == 2  # a forward alone ends every search; the others bring a gradient
    point = moving_point(surface)
    assert point.w is moving_point(surface, surface.w.abs()).w
    surface.release()
    assert point.w is not moving_point(surface).w
    assert point._slope_replay._recording is None  # its memory is free, whoever still holds the point


def test_what_it_hands_out_stays_when_it_goes_on(recordings):
    surface = LossSurface(MLP(), mlp_data(24), cuda_graphs=True)
    point, x = moving_point(surface), torch.randn(surface.w.shape, dtype=surface.w.dtype)
    for _ in range(WARM_UP + 1):
        point.move(x).slope(), point.move(x).raw_logits()
    assert len(recordings) == 2
    first, value = point.move(x, 0.1).gradient(), point.move(x, 0.1).value()
    kept = [t.clone() for t in (first.loss, first.raw, first.gradient, value.raw)]
    point.move(x, 0.2).gradient(), point.move(x, 0.2).value()
    assert all(torch.equal(a, b) for a, b in zip((first.loss, first.raw, first.gradient, value.raw), kept, strict=True))
    assert torch.equal(first.gradient, MovingPoint(surface).move(x, 0.1).gradient().gradient)


def test_a_device_that_is_busy_all_along_records_nothing(recordings, monkeypatch):
    monkeypatch.setattr(replay, "mark_of", lambda device: Mark(passed=False))
    surface = LossSurface(MLP(), mlp_data(24), cuda_graphs=True)
    acutance.measure("worst_case", surface, rho=0.3, steps=9)
    assert not recordings and not surface.notes


def test_what_cannot_be_recorded_is_made_pass_by_pass_and_told(recordings, monkeypatch):
    def refuse(work, device):
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(replay, "recorded", refuse)
    surface, plain = LossSurface(MLP(), mlp_data(24), cuda_graphs=True), LossSurface(MLP(), mlp_data(24))
    found = acutance.measure("worst_case", surface, rho=0.3, steps=9)
    assert found.value == acutance.measure("worst_case", plain, rho=0.3, steps=9).value
    assert surface.notes == [
        "passes are made one by one: not recordable as a CUDA graph (operation not permitted when stream is capturing)"
    ]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out"), KeyboardInterrupt(), ValueError("the model's own")])
def test_other_errors_of_a_recording_are_raised(recordings, monkeypatch, error):
    def fail(work, device):
        work()
        raise error

    monkeypatch.setattr(replay, "recorded", fail)
    surface = LossSurface(MLP(), mlp_data(24), cuda_graphs=True)
    before = snapshot(surface.model)
    with pytest.raises(type(error)):
        acutance.measure("worst_case", surface, rho=0.3, steps=9)
    assert_untouched(surface.model, before)


def test_passes_are_made_one_by_one_until_the_device_has_shown_itself(recordings):
    made = []

    def work():
        made.append(1)
        return (torch.tensor(float(len(made))),)

    replayed = Replay(work, CPU, pytest.fail)
    for i in range(1, WARM_UP + 1):
        assert replayed()[0] == i and not recordings
    assert replayed()[0] == WARM_UP + 2  # once recorded, and once to give the values
    assert len(recordings) == 1


def test_nothing_is_recorded_where_passes_do_not_read_the_same_memory(monkeypatch):
    x, y = mlp_data(24)
    lazy = LossSurface(MLP(), (Lazy(lambda rows: x[rows], torch.arange(len(x))), y), cuda_graphs=True)
    parts, listened = (
        LossSurface(MLP(), (x, y), cuda_graphs=True, microbatch=5),
        LossSurface(MLP(), (x, y), cuda_graphs=True),
    )
    listened.model.register_forward_hook(lambda *_: None)
    whole = LossSurface(MLP(), (x, y), cuda_graphs=True)
    assert not whole.core.replays  # a CPU
    for surface in (lazy, parts, listened, whole):
        monkeypatch.setattr(surface.core.functional, "device", torch.device("cuda"))
    assert whole.core.replays
    assert not (lazy.core.replays or parts.core.replays or listened.core.replays)
