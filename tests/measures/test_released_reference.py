"""The published code's price, re-made for the benchmarks: the same values as ``mode="released"``, at the stated work."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from models import MLP, Attention, ConvBN, conv_data, mlp_data, token_data
from torch import nn

import acutance
from acutance import LossSurface
from acutance.model.normalization import normalize_logits
from acutance.testing.models import DictInput, text_data
from acutance_worst_case import released

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "perf"))

import released_reference
from released_reference import PublishedSearch, schedule

CASES = {
    "mlp": (MLP, mlp_data),
    "attention": (Attention, token_data),
    "conv_bn": (ConvBN, conv_data),
    "dict": (DictInput, text_data),
}


class Normalized(nn.Module):
    """Logits of unit spread, as a model of its own: so the published code does it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        output = self.model(*args, **kwargs)
        return normalize_logits(output if isinstance(output, torch.Tensor) else output.logits, "released")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("norm,rho", [("l2", 0.5), ("l2", 2.0), ("linf", 0.002), ("linf", 0.1)])
@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("logit_norm", [False, True])
def test_it_finds_what_released_mode_finds(case, norm, rho, scaling, logit_norm):
    build, data = CASES[case]
    model = build()
    inputs, targets = data()
    ours = acutance.measure(
        "worst_case", LossSurface(model, (inputs, targets)), rho=rho, norm=norm, scaling=scaling, mode="released",
        logit_norm=logit_norm, norm_scale="released" if logit_norm else "paper",
    )  # fmt: skip
    subject = Normalized(model) if logit_norm else model
    theirs = PublishedSearch(subject, inputs, targets, norm, rho, scaling == "elementwise").run(20)
    assert theirs.rise > 0
    assert theirs.rise == pytest.approx(ours.value, rel=1e-4)
    assert theirs.error_rise == pytest.approx(ours.extras["perturbed_error"] - ours.extras["clean_error"], abs=1e-6)


class Counting(MLP):
    """Counts what is asked of it: forwards with and without gradient, copies of its state, states loaded."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def forward(self, x):
        self.counts["with gradient" if torch.is_grad_enabled() else "without"] += 1
        return super().forward(x)

    def state_dict(self, *args, **kwargs):
        self.counts["copied"] += 1
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        self.counts["loaded"] += 1
        return super().load_state_dict(*args, **kwargs)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_spends_what_the_published_code_spends(norm):
    model, (inputs, targets), steps = Counting(), mlp_data(), 20
    before = [p.detach().clone() for p in model.parameters()]
    found = PublishedSearch(model, inputs, targets, norm, 0.5).run(steps)
    assert 0 < found.records <= steps and found.cuts > 0
    assert found.rounds > 5 * steps if norm == "l2" else found.rounds == 0
    # Copied to restore at the end, as the first best, and at each record; loaded at each cut and at the end.
    copied, loaded = 2 + found.records, found.cuts + 1
    assert model.counts == {"with gradient": steps, "without": steps + 1, "copied": copied, "loaded": loaded}
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before))


def test_a_bisection_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr(released_reference, "LONGEST_BISECTION", 3)
    with pytest.raises(RuntimeError, match="does not end here"):
        PublishedSearch(MLP(), *mlp_data(), "l2", 0.5).run(1)


@pytest.mark.parametrize("steps", range(1, 121))
def test_both_judge_progress_at_the_same_iterations(steps):
    assert {k for k in schedule(steps) if k < steps} == {k for k in released.checkpoints(steps) if k < steps}
