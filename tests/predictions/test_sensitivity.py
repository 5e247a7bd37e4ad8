"""Derivatives by the inputs: autograd point by point, a linear model, and the number of passes."""

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import Status


def network(classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, classes)).double()


def points(n=9):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, dtype=torch.float64, generator=g), torch.arange(n) % 4


def jacobians(model, x):
    return torch.stack([torch.autograd.functional.jacobian(lambda z: model(z[None])[0], row) for row in x])


def test_the_input_gradient_is_that_of_each_points_loss():
    model, (x, y) = network(), points()
    norms = []
    for row, label in zip(x, y):
        row = row.clone().requires_grad_()
        nn.functional.cross_entropy(model(row[None]), label[None]).backward()
        norms.append(float(row.grad.norm()))
    found = acutance.measure("input_gradient_norm", model, (x, y))
    assert found.value == pytest.approx(np.mean(norms), rel=1e-12)
    assert (found.cost.forwards, found.cost.backwards) == (9, 9)


@pytest.mark.parametrize("probes", [4, 10])
def test_as_many_probes_as_classes_are_exact(probes):
    model, (x, _) = network(), points()
    j = jacobians(model, x)
    p = model(x).softmax(1).detach()
    of_p = torch.stack([(torch.diag(q) - torch.outer(q, q)) @ one for q, one in zip(p, j)])
    found = acutance.measure("geometric_complexity", model, (x, None), probes=probes)
    assert found.value == pytest.approx(float(j.square().sum((1, 2)).mean()), rel=1e-12) and found.stderr is None
    assert (found.cost.forwards, found.cost.backwards) == (9 + 4 * 9, 4 * 9)
    norm = acutance.measure("jacobian_norm", model, (x, None), probes=probes)
    assert norm.value == pytest.approx(float(of_p.square().sum((1, 2)).sqrt().mean()), rel=1e-12)
    logits = acutance.measure("jacobian_norm", model, (x, None), probes=probes, of="logits")
    assert logits.value == pytest.approx(float(j.square().sum((1, 2)).sqrt().mean()), rel=1e-12)


def test_random_combinations_are_right_on_average():
    model, (x, _) = network(), points()
    exact = float(jacobians(model, x).square().sum((1, 2)).mean())
    few = acutance.measure("geometric_complexity", model, (x, None), probes=3)
    assert few.value != pytest.approx(exact, rel=1e-9) and few.cost.backwards == 27 and few.stderr > 0
    many = acutance.measure("geometric_complexity", model, (x, None), probes=400, signs=True)
    assert abs(many.value - exact) < 4 * many.stderr < 0.1 * exact
    norm = acutance.measure("jacobian_norm", model, (x, None), probes=400, signs=True)
    assert norm.value == pytest.approx(acutance.measure("jacobian_norm", model, (x, None)).value, rel=0.02)


def test_a_linear_model_has_the_norm_of_its_weights():
    model, (x, _) = nn.Linear(5, 4).double(), points()
    expected = float(model.weight.detach().square().sum())
    assert acutance.measure("geometric_complexity", model, (x, None)).value == pytest.approx(expected, rel=1e-12)
    norm = acutance.measure("jacobian_norm", model, (x, None), of="logits").value
    assert norm == pytest.approx(expected**0.5, rel=1e-12)


@pytest.mark.parametrize("name", ["jacobian_norm", "geometric_complexity"])
def test_labels_are_not_read(name):
    model, (x, y) = network(), points()
    values = {acutance.measure(name, model, (x, labels)).value for labels in (y, 3 - y, None)}
    assert len(values) == 1


@pytest.mark.parametrize("name", ["input_gradient_norm", "jacobian_norm", "geometric_complexity"])
def test_tokens_have_no_derivative(name):
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3))
    found = acutance.measure(name, model, (torch.randint(5, (8, 2)), torch.arange(8) % 3))
    assert found.status is Status.UNSUPPORTED and "whole numbers" in found.message


def test_one_output_has_no_probabilities_but_a_jacobian():
    model, (x, _) = network(1), points()
    assert acutance.measure("jacobian_norm", model, (x, None)).status is Status.UNSUPPORTED
    expected = float(jacobians(model, x).square().sum((1, 2)).mean())
    assert acutance.measure("geometric_complexity", model, (x, None)).value == pytest.approx(expected, rel=1e-12)
