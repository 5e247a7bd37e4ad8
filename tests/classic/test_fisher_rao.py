"""Fisher-Rao norm and relative flatness, against the gradients and Hessians they summarise."""

import itertools

import pytest
import torch
from bias_free import Plain
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.testing.models import MLP, mlp_data
from acutance.testing.problems import PROBLEMS
from acutance.testing.twins import TWINS


def plain(**settings):
    return LossSurface(Plain(**settings), mlp_data())


@pytest.mark.parametrize("name", ["tanh_mlp", "conv_bn", "attention", "dict_input", "slope"])
@pytest.mark.parametrize("parameters", ["all", "*.weight"])
def test_it_is_the_mean_square_of_the_gradients_along_the_weights(name, parameters):
    if name == "slope" and parameters != "all":
        return
    surface = PROBLEMS[name].surface()
    part = surface.restricted(parameters)
    # The quadratic's loss is a function of one's own of all examples alike: its gradient is that of each.
    rows = [part.gradient()[1][None]] if name == "slope" else list(part.example_gradients())
    expected = float((torch.cat(rows) @ part.w).square().mean())
    found = acutance.measure("fisher_rao", PROBLEMS[name].surface(), parameters=parameters)
    if name == "slope":
        assert found.status is not Status.OK or found.value == pytest.approx(expected, rel=1e-9)
        return
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert (found.cost.forwards, found.cost.backwards) == (2 * surface.n, 2 * surface.n)


def test_with_sampled_labels_it_is_the_expectation_over_all_of_them():
    surface = PROBLEMS["tanh_mlp"].surface()
    p = surface.logits().softmax(1)
    squares = []
    for label in range(4):
        targets = torch.full_like(surface.targets, label)
        relabelled = LossSurface(surface.model, (surface.inputs, targets))
        squares.append((torch.cat(list(relabelled.example_gradients())) @ surface.w).square())
    expected = float((p * torch.stack(squares, 1)).sum(1).mean())
    found = acutance.measure("fisher_rao", surface, labels="sampled")
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.value == pytest.approx(float(surface.w @ surface.ggnvp(surface.w)), rel=1e-9)


@pytest.mark.parametrize("labels", ["given", "sampled"])
def test_a_homogeneous_network_needs_its_logits_alone(labels):
    surface = plain()
    exact = acutance.measure("fisher_rao", surface, labels=labels)
    closed = acutance.measure("fisher_rao", plain(), labels=labels, form="homogeneous")
    assert closed.value == pytest.approx(exact.value, rel=1e-9) and closed.extras["degree"] == 3
    assert (closed.cost.forwards, closed.cost.backwards) == (2 * surface.n, 0)
    if labels == "given":
        p, f = surface.logits().softmax(1), surface.logits()
        margin = (p * f).sum(1) - f.gather(1, surface.targets[:, None])[:, 0]
        assert closed.value == pytest.approx(9 * float(margin.square().mean()), rel=1e-12)


def test_a_convolutional_network_and_a_part_of_the_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(3, 3, bias=False)).double()  # fmt: skip
    surface = LossSurface(model, PROBLEMS["conv_bn"].data())
    for parameters, degree in (("all", 2), ("0.*", 1)):
        values = [
            acutance.measure("fisher_rao", surface, form=form, parameters=parameters)
            for form in ("exact", "homogeneous")
        ]
        assert values[0].value == pytest.approx(values[1].value, rel=1e-9) and values[1].extras["degree"] == degree


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"bias": True}, "biases and normalization"), ({"norm": True}, "norm: normalization"),
     ({"activation": torch.tanh}, "should be 1.25^3 times"), ({"residual": True}, "residual path")],
)  # fmt: skip
def test_where_the_degree_is_spoilt_the_closed_form_is_refused(settings, why):
    found = acutance.measure("fisher_rao", plain(**settings), form="homogeneous")
    assert found.status is Status.UNSUPPORTED and why in found.message
    assert acutance.measure("fisher_rao", plain(**settings)).status is Status.OK


def test_a_weight_that_serves_twice_has_another_degree():
    model = Plain((6, 6, 6, 4))
    model.layers[1].weight = model.layers[0].weight
    found = acutance.measure("fisher_rao", LossSurface(model, mlp_data()), form="homogeneous")
    assert found.status is Status.UNSUPPORTED and "serves twice" in found.message


def test_biases_that_are_zero_may_be_left_out():
    model = Plain(bias=True)
    with torch.no_grad():
        for layer in model.layers:
            layer.bias.zero_()
    surface = LossSurface(model, mlp_data())
    closed = acutance.measure("fisher_rao", surface, form="homogeneous", parameters="*.weight")
    assert closed.value == pytest.approx(acutance.measure("fisher_rao", surface).value, rel=1e-9)


def test_labels_are_sampled_from_a_softmax_alone():
    surface = LossSurface(MLP(), (mlp_data()[0], torch.randn(24, 4, dtype=torch.float64)), loss="mse")
    found = acutance.measure("fisher_rao", surface, labels="sampled")
    assert found.status is Status.UNSUPPORTED and "cross-entropy" in found.message
    expected = float((torch.cat(list(surface.example_gradients())) @ surface.w).square().mean())
    assert acutance.measure("fisher_rao", surface).value == pytest.approx(expected, rel=1e-9)


# -- relative flatness ------------------------------------------------------------------------------------


def blocks(surface, name):
    """The sum over pairs of rows of <w_s, w_s'> tr H_ss', from the dense Hessian of one weight."""
    view = surface.restricted(f"{name}.weight")
    p = view.w.numel()
    h = torch.stack([view.hvp(e) for e in torch.eye(p, dtype=view.w.dtype)])
    rows = view.layers[0][2][0]
    w, h = view.w.view(rows, -1), h.view(rows, -1, rows, p // rows)
    return float(((w @ w.T) * torch.einsum("sjtj->st", h)).sum())


@pytest.mark.parametrize(("name", "last"), [("tanh_mlp", "layers.1"), ("conv_bn", "fc"), ("dict_input", "head")])
def test_the_closed_form_is_that_of_the_dense_hessian(name, last):
    surface = PROBLEMS[name].surface()
    found = acutance.measure("relative_flatness", surface)
    assert found.value == pytest.approx(blocks(surface, last), rel=1e-9) and found.stderr is None
    assert (found.cost.forwards, found.cost.backwards, found.cost.hvps) == (surface.n, 0, 0)


@pytest.mark.parametrize(("name", "layer"), [("tanh_mlp", "layers.1"), ("tanh_mlp", "layers.0"), ("conv_bn", "conv1")])
def test_any_layer_is_estimated_from_products(name, layer):
    surface = PROBLEMS[name].surface()
    found = acutance.measure("relative_flatness", surface, layer=layer, probes=200)
    assert abs(found.value - blocks(surface, layer)) <= 4 * found.stderr
    assert 0 < found.stderr < 0.5 * abs(found.value) and found.cost.hvps == 200 * surface.n


def test_each_product_has_the_expectation_that_is_claimed():
    # Over all signs Z of a layer with two inputs, the mean is exact.
    surface = LossSurface(MLP(torch.tanh, (2, 3, 4)), (mlp_data()[0][:, :2], mlp_data()[1]))
    view = surface.restricted("layers.0.weight")
    w = view.w.view(3, 2)
    forms = []
    for signs in itertools.product([-1.0, 1.0], repeat=4):
        v = (w @ torch.tensor(signs, dtype=torch.float64).view(2, 2)).reshape(-1)
        forms.append(float(v @ view.hvp(v)))
    assert sum(forms) / 16 == pytest.approx(blocks(surface, "layers.0"), rel=1e-9)


def test_scaling_a_layer_and_the_one_before_it_changes_nothing():
    (twin,) = (twin for twin in TWINS if twin.name == "two layers around a ReLU")
    a, b = (acutance.measure("relative_flatness", p.surface()).value for p in (twin.original, twin.changed))
    assert a == pytest.approx(b, rel=1e-9) and a > 0
    for twin in TWINS:
        if twin.invariance == "head_mixing" and "query" in twin.name:
            a, b = (blocks(p.surface(), "q") for p in (twin.original, twin.changed))
            assert a == pytest.approx(b, rel=1e-9)


@pytest.mark.parametrize(
    ("surface", "layer", "why"),
    [("tanh_mlp", "layers.7", "no layer 'layers.7' with a weight"), ("conv_bn", "bn1", "is a vector"),
     ("tanh_mlp", "layers.*", "are several layers"), ("slope", "last", "of cross-entropy")],
)  # fmt: skip
def test_what_has_no_relative_flatness_is_told(surface, layer, why):
    found = acutance.measure("relative_flatness", PROBLEMS[surface].surface(), layer=layer)
    assert found.status is Status.UNSUPPORTED and why in found.message


def test_logits_that_no_linear_layer_gives_have_no_closed_form():
    class Scaled(MLP):
        def forward(self, x):
            return 2 * super().forward(x)

    found = acutance.measure("relative_flatness", LossSurface(Scaled(), mlp_data()))
    assert found.status is Status.UNSUPPORTED and "something comes after it" in found.message
