"""Many points of a tiny network in one pass: the values of single passes, and as many forwards."""

import pytest
import torch
from models import MLP, ConvBN, conv_data, mlp_data
from torch import nn

from acutance import LossSurface
from acutance.plugins import catalog
from acutance.surface.evaluation import evaluate_family
from acutance.surface.many_points import ManyPoints, go_together

SPECS = [
    {"rho": 0.1, "draws": 40}, {"rho": 0.2, "draws": 7, "logit_norm": True}, {"rho": 0.1, "draws": 30, "norm": "linf"},
    {"rho": 0.1, "draws": 12, "variance_reduction": "antithetic"}, {"rho": 0.3, "draws": 9, "scaling": "none"},
    {"rho": 0.1, "draws": 12, "variance_reduction": "linear"}, {"rho": 0.2, "draws": 8, "parameters": "2.*"},
]  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    ).double()


def data():
    torch.manual_seed(1)
    return torch.randn(20, 6, dtype=torch.float64), torch.randint(0, 3, (20,))


def values(loss, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr("acutance.surface.loss_surface.go_together", lambda surface: False)
    x, y = data()
    targets = y if loss == "cross_entropy" else nn.functional.one_hot(y).double()
    surface = LossSurface(network(), (x, targets), loss=loss)
    measure = catalog().measure("average_case")
    specs = [measure.Spec(**settings) for settings in SPECS]
    found = evaluate_family("average_case", measure, surface, specs, seed=0, batch=0)
    return found, surface.cost


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "squared_sum", lambda f, y: (f - y).abs().mean()])
def test_values_and_passes_are_those_of_single_passes(loss, monkeypatch):
    together, passes = values(loss)
    alone, single = values(loss, monkeypatch)
    assert passes == single
    for a, b in zip(together, alone, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-11) and a.stderr == pytest.approx(b.stderr, rel=1e-9)
        assert a.extras == pytest.approx(b.extras, rel=1e-9, nan_ok=True)
        assert a.cost.units == pytest.approx(b.cost.units)


def test_a_value_does_not_depend_on_what_else_is_passed():
    surface, measure = LossSurface(network(), data()), catalog().measure("average_case")
    specs = [measure.Spec(**settings) for settings in SPECS]
    for spec, shared in zip(specs, values("cross_entropy")[0], strict=True):
        (alone,) = evaluate_family("average_case", measure, surface, [spec], seed=0, batch=0)
        assert alone.value == pytest.approx(shared.value, rel=1e-11)


def test_rows_are_points():
    surface = LossSurface(network(), data())
    points, x = ManyPoints(surface), torch.randn_like(surface.w)
    points.place(0, x, None, 0.1)
    points.place(1, x, surface.w.abs(), -0.2)
    raw = points.raw_logits(2)
    torch.testing.assert_close(raw[0], surface.raw_logits(surface.w + 0.1 * x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        raw[1], surface.raw_logits(surface.w - 0.2 * surface.w.abs() * x), rtol=1e-12, atol=1e-14
    )
    losses, errors = surface.losses_at(raw), surface.mean_errors_at(raw)
    torch.testing.assert_close(losses[1], surface.loss_of(raw[1]), rtol=1e-13, atol=0)
    assert torch.equal(errors[1], surface.mean_error_of(raw[1]))


def test_no_more_rows_are_held_than_points_are_visited():
    surface = LossSurface(network(), data())
    assert len(ManyPoints(surface, 6).rows) == 6 and len(ManyPoints(surface, 1000).rows) == 64


def test_only_what_gains_go_together():
    assert go_together(LossSurface(network(), data()))
    assert not go_together(LossSurface(network(), data(), microbatch=4))
    assert not go_together(LossSurface(ConvBN(), conv_data()))
    assert not go_together(LossSurface(MLP(), mlp_data()))  # a class of one's own may do anything
    watched = network()
    watched[0].register_forward_hook(lambda *_: None)
    assert not go_together(LossSurface(watched, data()))
    x, y = data()
    assert not go_together(LossSurface(network(), (x.repeat(60, 1), y.repeat(60))))


def test_the_model_is_untouched_when_a_pass_fails(monkeypatch):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    surface = LossSurface(model, data())
    surface.loss()
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_family("average_case", catalog().measure("average_case"), surface,
                        [catalog().measure("average_case").Spec(rho=0.1)], seed=0, batch=0)  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(p, torch.Tensor) and p.dim() == 3 for p in model.parameters())
