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


@pytest.fixture
def weights_are_many(monkeypatch):
    monkeypatch.setattr("acutance.numerics.units.HUGE", 1)


@pytest.mark.usefixtures("weights_are_many")
@pytest.mark.parametrize("parameters", ["all", "!*bias"])
@pytest.mark.parametrize("microbatch", [None, 5])
def test_a_passing_gradient_is_bitwise_the_other_one_and_lies_in_the_point(surface, microbatch, parameters):
    view = surface.restricted(parameters).transformed()
    view.microbatch = microbatch
    point = MovingPoint(view, view.w.abs())
    x = torch.randn(view.w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = snapshot(surface.model)
    with point.held():
        loss, raw, parts = point.move(x, 0.1).slope()
        wanted, spent = torch.cat(parts), view.cost
        found_loss, found_raw, (found,) = point.passing_slope()
    assert torch.equal(found, wanted) and torch.equal(found_loss, loss) and torch.equal(found_raw, raw)
    assert (found is point.w) == (microbatch is None)
    spent = view.cost - spent
    assert (spent.forwards, spent.backwards) == (view.n, view.n)
    point.move(x, 0.1)
    assert torch.equal(torch.cat(point.slope()[2]), wanted)
    assert_untouched(surface.model, before)


class Late(torch.autograd.Function):
    """x, whose backward pass reads a weight it was given: late, where the weight was used again since."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        (w,) = ctx.saved_tensors
        return g * (1 + 0 * w.sum()), None


class ReadsLate(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(Late.apply(torch.tanh(self.first(x)), self.second.weight.detach()))


@pytest.mark.usefixtures("weights_are_many")
def test_weights_that_a_backward_pass_reads_after_their_gradient_are_not_written_over():
    torch.manual_seed(0)
    surface = LossSurface(ReadsLate(), (torch.randn(8, 4), torch.randint(0, 3, (8,))))
    objective, x = surface.perturbed(), torch.full_like(surface.w, 0.1)
    wanted = surface.perturbed().gradient(x)
    for _ in range(2):
        loss, _, slope = objective.passing(x)
        assert loss == wanted[0] and torch.equal(slope.flat(), wanted[2].flat())
    checks = surface.cost.checks
    objective.passing(x)
    assert surface.cost.checks == checks  # tried once


@pytest.mark.usefixtures("weights_are_many")
def test_a_passing_gradient_is_zero_where_the_loss_does_not_depend_and_nan_where_it_is_none():
    constant = LossSurface(MLP(), mlp_data(), loss=lambda logits, targets: torch.tensor(2.0))
    assert not constant.perturbed().passing(constant.w)[2].flat().any()
    unused = LossSurface(MLP(), mlp_data(), loss=lambda logits, targets: logits.mean() * torch.nan)
    assert unused.perturbed().passing(unused.w)[2].flat().isnan().any()
    few = LossSurface(Weights(torch.tensor([1.0, 2.0, 4.0])), (torch.zeros(2, 1), torch.tensor([0, 1])))
    _, raw, slope = few.perturbed().passing(torch.ones(3))
    assert raw.tolist() == [[2.0, 3.0, 5.0]] * 2
    torch.testing.assert_close(slope.flat(), few.gradient(torch.tensor([2.0, 3.0, 5.0]))[1])


@pytest.mark.usefixtures("weights_are_many")
def test_the_gradient_of_many_weights_is_forgotten_and_who_was_silent_is_not():
    class Idle(MLP):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(3, 3).double()

    surface = LossSurface(Idle(), mlp_data())
    surface.forget_gradient()
    assert surface.silent() == []
    wanted, spent = surface.clean_gradient().gradient, surface.cost.backwards
    surface.forget_gradient()
    assert surface.silent() == ["idle.weight", "idle.bias"]
    assert torch.equal(surface.clean_gradient().gradient, wanted) and surface.cost.backwards == 2 * spent


def test_the_gradient_of_few_weights_is_kept():
    surface = LossSurface(MLP(), mlp_data())
    found = surface.clean_gradient()
    surface.forget_gradient()
    assert surface.clean_gradient() is found
