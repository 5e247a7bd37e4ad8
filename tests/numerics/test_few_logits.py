"""Few logits: their loss and its gradient come of one compiled walk, and are those of automatic differentiation."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from models import MLP, mlp_data
from torch.autograd import forward_ad

from acutance import LossSurface
from acutance.model import losses
from acutance.model.losses import LossHead
from acutance.numerics import few_logits
from acutance.numerics.few_logits import FEW, cross_entropy, few, mean_error
from acutance.numerics.kernels import kernels
from acutance.surface import readings
from acutance.surface.moving_point import MovingPoint

pytestmark = pytest.mark.skipif(kernels() is None, reason="numba cannot be had")


def batch(n=7, classes=5, dtype=torch.float64, scale=3.0):
    g = torch.Generator().manual_seed(n)
    return scale * torch.randn(n, classes, generator=g, dtype=dtype), torch.randint(0, classes, (n,), generator=g)


def by_autograd(logits, targets):
    leaf = logits.double().clone().requires_grad_()
    loss = F.cross_entropy(leaf, targets)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("n,classes", [(1, 2), (7, 5), (40, 11), (3, 1000)])
@pytest.mark.parametrize("scale", [1e-3, 3.0, 300.0, 1e30])
def test_loss_and_gradient_are_those_of_automatic_differentiation(n, classes, scale):
    logits, targets = batch(n, classes, scale=scale)
    loss, gradient = cross_entropy(logits, targets)
    wanted, slope = by_autograd(logits, targets)
    assert loss.dtype == torch.float64 and loss.dim() == 0
    assert float(loss) == pytest.approx(float(wanted), rel=1e-14)
    torch.testing.assert_close(gradient, slope, rtol=1e-13, atol=1e-16)


def test_sums_are_in_float64_whatever_the_type_of_the_logits():
    logits, targets = batch(60, 9, torch.float32)
    loss, gradient = cross_entropy(logits, targets)
    wanted, slope = by_autograd(logits, targets)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-14)
    assert gradient.dtype == torch.float32
    assert torch.equal(gradient, slope.float())


@pytest.mark.parametrize("value,loss", [(math.nan, math.nan), (math.inf, math.nan), (-math.inf, math.inf)])
def test_what_is_no_number_is_one_in_every_derivative_too(value, loss):
    logits, targets = batch()
    logits[2, targets[2]] = value
    found, gradient = cross_entropy(logits, targets)
    assert float(found) == pytest.approx(loss, nan_ok=True)
    assert float(by_autograd(logits, targets)[0]) == pytest.approx(loss, nan_ok=True)
    assert bool(gradient.isnan().all())


def test_classes_that_are_ruled_out_have_no_share():
    logits, targets = batch()
    logits[2, (targets[2] + 1) % 5] = -math.inf
    loss, gradient = cross_entropy(logits, targets)
    wanted, slope = by_autograd(logits, targets)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-14)
    torch.testing.assert_close(gradient, slope, rtol=1e-13, atol=1e-16)
    logits[2] = -math.inf
    assert math.isnan(float(cross_entropy(logits, targets)[0])) and math.isnan(float(by_autograd(logits, targets)[0]))


def test_nothing_that_is_differentiated_is_read_as_numbers():
    logits, targets = batch()
    head = LossHead("cross_entropy")
    assert few(logits, targets) and few(logits.float(), targets)
    others = [
        logits.clone().requires_grad_(), logits.T, logits[0], logits[:0], logits.half(), logits.to("meta"),
        torch.nn.Parameter(logits, requires_grad=False), torch.zeros(1, FEW + 1),
    ]  # fmt: skip
    assert not any(few(other, torch.zeros(other.shape[:1], dtype=torch.int64)) for other in others)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, torch.ones_like(logits))
        assert not few(dual, targets)
        tangent = forward_ad.unpack_dual(head.reading(dual, targets)).tangent
    assert float(tangent) == pytest.approx(0.0, abs=1e-15)  # logits may all rise together
    rows = torch.vmap(lambda one: head.reading(one[None], targets[:1]))(logits)
    assert rows.shape == (7,)
    slope = torch.func.grad(lambda f: head.reading(f, targets))(logits)
    torch.testing.assert_close(slope, by_autograd(logits, targets)[1], rtol=1e-13, atol=1e-16)


def test_parts_of_a_batch_sum_to_it():
    logits, targets = batch(12)
    head = LossHead("cross_entropy")
    whole, slope = head.slope(logits, targets, 12)
    parts = [head.slope(logits[rows], targets[rows], 12) for rows in (slice(0, 5), slice(5, 12))]
    assert float(sum(loss for loss, _ in parts)) == pytest.approx(float(whole), rel=1e-14)
    torch.testing.assert_close(torch.cat([g for _, g in parts]), slope, rtol=1e-13, atol=1e-16)
    assert float(head.reading(logits, targets)) == float(whole)
    assert LossHead("mse").slope(logits, logits, 12) is None


@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("logit_norm", [False, True])
def test_a_pass_has_the_same_loss_and_gradient_with_it_and_without(monkeypatch, microbatch, logit_norm):
    calls = []
    known = losses.few_cross_entropy
    monkeypatch.setattr(losses, "few_cross_entropy", lambda *a: (calls.append(1), known(*a))[1])
    found = []
    for walks in (True, False):
        if not walks:
            monkeypatch.setattr(losses, "few", lambda logits, targets: False)
        surface = LossSurface(MLP().double(), mlp_data(), microbatch=microbatch).transformed(logit_norm)
        point = MovingPoint(surface).move(torch.full_like(surface.w, 0.01))
        found.append((point.gradient(), point.value(), surface.loss()))
        assert bool(calls) is walks
        calls.clear()
    for with_it, without in zip(found[0][:2], found[1][:2]):
        assert float(with_it.loss) == pytest.approx(float(without.loss), rel=1e-14)
    torch.testing.assert_close(found[0][0].gradient, found[1][0].gradient, rtol=1e-12, atol=1e-15)
    assert float(found[0][2]) == pytest.approx(float(found[1][2]), rel=1e-14)


def test_values_and_slopes_at_one_point_are_bitwise_the_same_loss():
    surface = LossSurface(MLP(), mlp_data())
    point = MovingPoint(surface).move(torch.full_like(surface.w, 0.01))
    assert float(point.value().loss) == float(point.gradient().loss) == float(surface.loss(point.w))


def test_without_numba_torch_does_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "acutance.numerics.compiled", None)
    monkeypatch.delattr("acutance.numerics.compiled", raising=False)
    assert kernels.__wrapped__() is None
    monkeypatch.setattr(few_logits, "kernels", lambda: None)
    assert not few(*batch())


@pytest.mark.parametrize("case", ["plain", "ties", "ruled out", "all ruled out", "nan", "inf", "nan at last"])
def test_the_error_is_that_of_torch(case, monkeypatch):
    logits, targets = batch(40, 4, torch.float32)
    logits = (2 * logits).round() if case == "ties" else logits
    values = {"ruled out": -math.inf, "nan": math.nan, "inf": math.inf}
    if case in values:
        logits[3, 0] = values[case]
    if case == "all ruled out":
        logits[3] = -math.inf
    if case == "nan at last":
        logits[-1, -1] = math.nan
    found = mean_error(logits, targets)
    surface = LossSurface(MLP(), mlp_data(40))
    monkeypatch.setattr(readings, "few", lambda raw, targets: False)
    surface.core.targets = targets
    wanted = surface.mean_error_of(logits)
    assert found.dtype == torch.float64 and found.dim() == 0
    assert float(found) == pytest.approx(float(wanted), rel=0, abs=0, nan_ok=True)
    monkeypatch.undo()
    assert float(surface.mean_error_of(logits)) == pytest.approx(float(wanted), rel=0, abs=0, nan_ok=True)


def test_targets_that_do_not_fit_the_logits_are_refused_as_by_torch():
    logits, targets = batch()
    assert not few(logits, targets[:-1]) and not few(logits[:-1], targets) and not few(logits, targets.int())
    surface = LossSurface(MLP(), mlp_data())
    raw = surface.raw_logits()
    with pytest.raises((ValueError, RuntimeError)):
        surface.loss_of(raw[:-1])
    with pytest.raises((ValueError, RuntimeError)):
        surface.loss_of(raw.repeat(2, 1))
    for wrong in (-1, 5):
        with pytest.raises(IndexError):
            cross_entropy(logits, targets.index_fill(0, torch.tensor([2]), wrong))
