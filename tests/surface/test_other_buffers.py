"""The same model with other buffers, with recalibrated ones, and with all of its parameters free."""

import copy

import pytest
import torch
from models import MLP, ConvBN, conv_data, mlp_data
from torch import nn

from acutance import LossSurface, UserError


class Counting(nn.Module):
    """Adds an offset that is a buffer, and counts its passes in another one."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(6, 4, dtype=torch.float64)
        self.register_buffer("offset", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("passes", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        self.passes += 1
        return self.map(x) + self.offset


def test_other_buffers_are_those_of_the_passes_and_the_model_keeps_its_own():
    model = ConvBN()
    surface = LossSurface(model, conv_data())
    own = surface.clean_logits().clone()
    others = {name: 1.5 * buffer + 0.1 for name, buffer in surface.buffers.items()}
    assert set(others) == {f"bn{i}.running_{of}" for i in (1, 2) for of in ("mean", "var")}
    changed = copy.deepcopy(model)
    changed.load_state_dict(others, strict=False)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    there = surface.with_buffers(others)
    assert torch.allclose(there.raw_logits(), changed(conv_data()[0]), rtol=1e-12)
    w = 0.9 * surface.w
    assert not torch.allclose(there.raw_logits(w), surface.raw_logits(w))
    assert torch.equal(surface.raw_logits(), own) and torch.equal(there.w, surface.w)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    n = surface.n
    assert there.cost.forwards == surface.cost.forwards == 5 * n and there.digest == surface.digest
    others["bn1.running_mean"].add_(1)  # copied: what is done to it later changes nothing
    assert torch.equal(there.raw_logits(), there.clean_logits())
    one = surface.with_buffers({"bn2.running_var": before["bn2.running_var"] * 2})
    assert torch.equal(one.buffers["bn1.running_var"], before["bn1.running_var"])


def test_a_model_that_counts_its_passes_has_other_buffers_too():
    surface = LossSurface(Counting(), mlp_data())
    there = surface.with_buffers({"offset": torch.ones(4), "passes": torch.tensor(5.0)})
    for _ in range(2):
        assert torch.equal(there.raw_logits(), surface.raw_logits() + 1)
    assert float(surface.model.passes) == 0


def test_buffers_that_do_not_fit_are_refused():
    surface = LossSurface(ConvBN(), conv_data())
    with pytest.raises(UserError, match=r"no buffer 'bn1.running_men'.*running_mean"):
        surface.with_buffers({"bn1.running_men": torch.zeros(4)})
    with pytest.raises(UserError, match=r"buffer 'bn1.running_mean' is \(3,\), the model's is \(4,\)"):
        surface.with_buffers({"bn1.running_mean": torch.zeros(3)})
    assert surface.with_buffers({}) is surface


@pytest.mark.parametrize("microbatch", [None, 2])
def test_recalibrated_statistics_are_those_of_the_points_at_the_weights(microbatch):
    surface = LossSurface(ConvBN(), conv_data(), microbatch=microbatch)
    w = 1.3 * surface.w
    there = surface.recalibrated(w)
    assert there.cost.forwards == surface.n
    model = ConvBN()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    for layer in (model.bn1, model.bn2):
        layer.reset_running_stats()
        layer.momentum, layer.eps = None, 1e-300  # torch refuses 0 in training
    model.train()(conv_data()[0])
    for name, buffer in model.named_buffers():
        if name in there.buffers:
            assert torch.allclose(there.buffers[name], buffer, rtol=1e-12), name
    assert torch.allclose(there.raw_logits(w), model.eval()(conv_data()[0]), rtol=1e-10)
    assert not torch.allclose(surface.recalibrated().raw_logits(w), there.raw_logits(w))
    plain = LossSurface(MLP(), mlp_data())
    assert plain.recalibrated() is plain and plain.cost.forwards == 0


def test_all_parameters_of_a_restricted_surface():
    surface = LossSurface(MLP(), mlp_data(), parameters="layers.0.*")
    whole = surface.unrestricted()
    assert whole.w.numel() == sum(p.numel() for p in surface.model.parameters()) > surface.w.numel()
    assert whole.unrestricted() is whole and torch.equal(whole.clean_logits(), surface.clean_logits())
    assert surface.cost.forwards == surface.n  # made once for both
