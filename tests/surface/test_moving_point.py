"""The moving point: what it gives equals the surface's own answers, wherever its gradient is written."""

import re
from pathlib import Path

import pytest
import torch
from models import MLP, Attention, ConvBN, Weights, assert_untouched, conv_data, mlp_data, snapshot, token_data
from torch import nn

from acutance import Estimate, LossSurface, Streams, UserError
from acutance.plugins import catalog
from acutance.surface.moving_point import MovingPoint, _groups

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
    point = MovingPoint(view, c)
    for scale in (0.1, -0.2):
        loss, g = view.gradient(view.w + scale * units * x)
        value = point.move(x, scale).value()
        found, (slope_loss, raw, parts) = point.gradient(), point.slope()
        torch.testing.assert_close(value.loss, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.loss, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.gradient, g, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found.raw, value.raw, rtol=1e-12, atol=1e-14)
        assert torch.equal(slope_loss, found.loss) and torch.equal(raw, found.raw)
        assert torch.equal(torch.cat(parts), found.gradient)


def test_logits_that_lie_in_the_weights_stay_when_the_point_moves():
    surface = LossSurface(Weights(torch.tensor([1.0, 2.0, 4.0])), (torch.zeros(2, 1), torch.tensor([0, 1])))
    point = MovingPoint(surface)
    found = point.move(torch.ones(3)).gradient()
    value = point.move(torch.zeros(3)).value()
    point.move(torch.full((3,), 9.0))
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


@pytest.mark.parametrize("joined", [True, False])
def test_gradients_that_lie_in_the_weights_stay_when_the_point_moves(joined, monkeypatch):
    if not joined:
        monkeypatch.setattr("acutance.surface.moving_point.LARGE", 1)
    surface = LossSurface(Pair(), (torch.zeros(1, 1), torch.zeros(1, 1)), loss=lambda logits, targets: logits.sum())
    point = MovingPoint(surface)
    _, _, parts = point.move(torch.tensor([1.0, 2.0])).slope()
    point.move(torch.zeros(2))
    assert len(parts) == 2 - joined and torch.cat(parts).tolist() == [7.0, 3.0]


class Doubled(torch.autograd.Function):
    """a + b, whose two gradients are one and the same tensor."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, g):
        return g, g


class Sum(Pair):
    def forward(self, x):
        return Doubled.apply(self.a, self.b).expand(len(x), 1)


def test_microbatches_add_up_where_two_gradients_are_one_tensor(monkeypatch):
    monkeypatch.setattr("acutance.surface.moving_point.LARGE", 1)
    data = torch.zeros(4, 1), torch.zeros(4, 1)
    surface = LossSurface(Sum(), data, loss=lambda logits, targets: logits.mean(), microbatch=1)
    assert surface.gradient()[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("sizes,expected", [
    ([3, 5], [range(0, 2)]),
    ([40000, 5, 6, 50000, 7], [range(0, 1), range(1, 3), range(3, 4), range(4, 5)]),
    ([5, 40000, 40000], [range(0, 1), range(1, 2), range(2, 3)]),
])  # fmt: skip
def test_small_gradients_are_joined_and_large_ones_stay_alone(sizes, expected):
    assert _groups(sizes, on_cpu=True) == expected
    assert _groups(sizes, on_cpu=False) == [range(0, len(sizes))]


def test_a_loss_that_does_not_depend_on_the_weights_has_gradient_zero():
    surface = LossSurface(MLP(), mlp_data(), loss=lambda logits, targets: torch.tensor(2.0))
    for microbatch in (None, 5):
        surface.microbatch = microbatch
        point = MovingPoint(surface, surface.w.abs())
        assert not point.move(surface.w).gradient().gradient.any()


def test_passes_are_counted_and_the_model_is_untouched(surface):
    before, spent = snapshot(surface.model), surface.cost
    point = MovingPoint(surface)
    point.move(surface.w).value()
    point.gradient()
    assert_untouched(surface.model, before)
    spent = surface.cost - spent
    assert (spent.forwards, spent.backwards) == (2 * surface.n, surface.n)


def test_a_point_of_another_size_is_refused():
    surface = LossSurface(MLP(), mlp_data())
    with pytest.raises(UserError, match="this surface has 114 free parameters"):
        surface.evaluate(torch.zeros(7))


def test_a_stranger_writes_a_worst_case_measure_through_the_doors(tmp_path):
    """The measure that docs/plugins.md shows, against the built-in one: the same value at the same cost."""
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    (shown,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "class Rise(" in block]
    scope = {"__name__": "acme_rise.plugin"}
    exec(shown, scope)
    (rise,), built_in = (made() for made in scope["register_measures"]()), catalog().measure("worst_case")
    for more in ({"norm": "l2", "logit_norm": True}, {"norm": "linf", "scaling": "none", "parameters": "!*bias"}):
        surface, mine, theirs = LossSurface(MLP(), mlp_data()), {"rho": 0.3, "steps": 7, **more}, {"start": "random"}
        rng = Streams(0, "digest", 0, "worst_case")
        before = surface.cost
        found = Estimate.of(rise.evaluate(surface, rise.Spec(**mine), rng))
        spent = surface.cost - before
        again = LossSurface(MLP(), mlp_data())
        (wanted,) = built_in.evaluate_many(again, [built_in.Spec(**mine, **theirs)], rng)
        assert found.value == wanted.value > 0
        assert spent == again.cost and spent.forwards == rise.passes(rise.Spec(**mine)).forwards * surface.n
        assert spent.backwards == 7 * surface.n
