"""The moving point: what it gives equals the surface's own answers, wherever its gradient is written."""

import pytest
import torch
from models import MLP, Attention, ConvBN, Weights, assert_untouched, conv_data, mlp_data, snapshot, token_data
from torch import nn

from acutance import LossSurface, UserError
from acutance.probe import Probe

CASES = {"mlp": (MLP, mlp_data), "conv_bn": (ConvBN, conv_data), "attention": (Attention, token_data)}


@pytest.fixture(params=CASES)
def surface(request):
    build, data = CASES[request.param]
    return LossSurface(build(), data())


@pytest.mark.parametrize("parameters", ["all", "!*bias"])
@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("scaled", [False, True])
def test_it_is_the_surface_in_coordinates_of_c(surface, scaled, microbatch, parameters):
    view = surface.restricted(parameters).transformed()
    view.microbatch = microbatch
    x = torch.randn(view.w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    c = view.w.abs() if scaled else None
    units = c if scaled else torch.ones_like(x)
    probe = Probe(view, c)
    for scale in (0.1, -0.2):
        loss, g = view.gradient(view.w + scale * units * x)
        value = probe.move(x, scale).value()
        apart = probe.gradient()
        over = probe.gradient(out=probe.w)
        assert over.gradient is probe.w and apart.gradient is not probe.w
        torch.testing.assert_close(value.loss, loss, rtol=1e-12, atol=0)
        for found in (apart, over):
            torch.testing.assert_close(found.loss, loss, rtol=1e-12, atol=0)
            torch.testing.assert_close(found.gradient, units * g, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(found.raw, value.raw, rtol=1e-12, atol=1e-14)


def test_logits_that_lie_in_the_weights_stay_when_the_point_moves():
    surface = LossSurface(Weights(torch.tensor([1.0, 2.0, 4.0])), (torch.zeros(2, 1), torch.tensor([0, 1])))
    probe = Probe(surface)
    found = probe.move(torch.ones(3)).gradient(out=probe.w)
    value = probe.move(torch.zeros(3)).value()
    probe.move(torch.full((3,), 9.0))
    assert found.raw.tolist() == [[2.0, 3.0, 5.0]] * 2 and value.raw.tolist() == [[1.0, 2.0, 4.0]] * 2
    assert surface.clean().raw.tolist() == [[1.0, 2.0, 4.0]] * 2


class Product(torch.autograd.Function):
    """a b with gradients that are the arguments themselves, in their memory; right for a loss that is the product."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        return b, a


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return Product.apply(self.a, self.b).expand(len(x), 1)


def test_gradients_that_lie_in_the_weights_are_read_before_they_are_overwritten():
    surface = LossSurface(Pair(), (torch.zeros(1, 1), torch.zeros(1, 1)), loss=lambda logits, targets: logits.sum())
    probe = Probe(surface)
    assert probe.move(torch.tensor([1.0, 2.0])).gradient(out=probe.w).gradient.tolist() == [7.0, 3.0]


def test_a_loss_that_does_not_depend_on_the_weights_has_gradient_zero():
    surface = LossSurface(MLP(), mlp_data(), loss=lambda logits, targets: torch.tensor(2.0))
    for microbatch in (None, 5):
        surface.microbatch = microbatch
        probe = Probe(surface, surface.w.abs())
        assert not probe.move(surface.w).gradient(out=probe.w).gradient.any()


def test_passes_are_counted_and_the_model_is_untouched(surface):
    before, spent = snapshot(surface.model), surface.cost
    probe = Probe(surface)
    probe.move(surface.w).value()
    probe.gradient(out=probe.w)
    assert_untouched(surface.model, before)
    spent = surface.cost - spent
    assert (spent.forwards, spent.backwards) == (2 * surface.n, surface.n)


def test_a_point_of_another_size_is_refused():
    surface = LossSurface(MLP(), mlp_data())
    with pytest.raises(UserError, match="this surface has 114 free parameters"):
        surface.evaluate(torch.zeros(7))
