"""Alignment of the tangent kernel with the labels: a dense Jacobian by torch.func, and models whose kernel is known."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import acutance
from acutance import Status
from acutance.plugins import catalog
from acutance_predictions.representations import tangent, tangent_kernel


class Scaled(nn.Module):
    """A parameter that is used twice, and one that is shared by all logits."""

    def __init__(self):
        super().__init__()
        self.inner, self.s = nn.Linear(5, 5), nn.Parameter(torch.tensor(0.7))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.s * self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


def mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def conv():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    )


def built(build):
    torch.manual_seed(0)
    model = build().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def points(build, n=13):
    g = torch.Generator().manual_seed(1)
    shape, classes = ((2, 6, 6), 4) if build is conv else ((5,), 3)
    x = torch.randn(n, *shape, dtype=torch.float64, generator=g)
    return x, torch.randint(classes, (n,), generator=g)


def dense_kernel(model, x, keep=lambda name: True):
    """Return the trace over the logits of the tangent kernel, from the whole Jacobian."""
    state = {k: v.detach() for k, v in model.named_parameters()}
    jacobian = jacrev(lambda free: functional_call(model, free, (x,)))(state)
    rows = torch.cat([j.reshape(*j.shape[:2], -1) for name, j in jacobian.items() if keep(name)], dim=2)
    return torch.einsum("ikp,jkp->ij", rows, rows).numpy()


def aligned(k, y):
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    k, m = h @ k @ h, h @ (y[:, None] == y).astype(float) @ h
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


@pytest.mark.parametrize("build", [mlp, conv, Scaled])
@pytest.mark.parametrize(("rows", "chunk"), [(64, 8), (5, 2), (4, 4), (1, 1)])
def test_it_is_that_of_the_dense_jacobian_however_it_is_made(build, rows, chunk, monkeypatch):
    monkeypatch.setattr(tangent_kernel, "ROWS", rows)
    monkeypatch.setattr(tangent_kernel, "CHUNK", chunk)
    monkeypatch.setattr(tangent_kernel, "COLUMNS", 7)
    model, (x, y) = built(build), points(build)
    surface, exact = acutance.LossSurface(model, (x, y)), dense_kernel(model, x)
    classes = 4 if build is conv else 3
    kernel = tangent_kernel.tangent_kernel(surface, classes).numpy()
    assert np.allclose(kernel, exact, rtol=1e-12, atol=1e-12 * abs(exact).max()) and (kernel == kernel.T).all()
    found = acutance.measure("ntk_alignment", model, (x, y))
    assert found.value == pytest.approx(aligned(exact, y.numpy()), rel=1e-11)
    made = tangent_kernel.gradients_of(13, classes, rows)
    assert (found.cost.forwards, found.cost.backwards) == (13 + made, made)
    if rows == 64:
        assert made == 13 * classes
    elif rows == 5:
        assert made == classes * (13 + 8 + 3)


def test_parameters_are_those_that_are_asked_for_and_a_microbatch_changes_nothing():
    model, (x, y) = built(mlp), points(mlp)
    for pattern, keep in (("2.*", lambda n: n[0] == "2"), ("!*bias", lambda n: "bias" not in n)):
        found = acutance.measure("ntk_alignment", model, (x, y), parameters=pattern)
        assert found.value == pytest.approx(aligned(dense_kernel(model, x, keep), y.numpy()), rel=1e-11)
    whole = acutance.measure("ntk_alignment", model, (x, y)).value
    small = acutance.measure("ntk_alignment", acutance.LossSurface(model, (x, y), microbatch=3)).value
    assert small == pytest.approx(whole, rel=1e-12)
    single = acutance.measure("ntk_alignment", built(mlp).float(), (x.float(), y)).value
    assert single == pytest.approx(whole, rel=1e-4)


def test_a_model_that_vmap_cannot_take_has_the_same_kernel():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return self.inner(x) * (1 if float(x.detach().sum()) > -1e9 else 2)

    model, (x, y) = built(Looking), points(mlp)
    surface = acutance.LossSurface(model, (x, y))
    found = acutance.measure("ntk_alignment", surface)
    assert surface.core.vectorises is False
    assert found.value == pytest.approx(aligned(dense_kernel(built(mlp), x), y.numpy()), rel=1e-11)


def test_a_linear_model_has_the_kernel_of_its_inputs():
    model, (x, y) = nn.Linear(5, 3).double(), points(mlp)
    gram = (x @ x.T).numpy()
    kernel = tangent_kernel.tangent_kernel(acutance.LossSurface(model, (x, y)), 3).numpy()
    assert np.allclose(kernel, 3 * (gram + 1), rtol=1e-12)
    assert acutance.measure("ntk_alignment", model, (x, y)).value == pytest.approx(aligned(gram, y.numpy()))
    # Inputs that are the labels are aligned with them.
    one_hot = nn.functional.one_hot(y, 5).double()
    assert acutance.measure("ntk_alignment", model, (one_hot, y)).value == pytest.approx(1, rel=1e-12)


def test_what_has_no_value_says_why():
    model, (x, y) = built(mlp), points(mlp)

    def message(model, data, status=Status.UNSUPPORTED, **fields):
        found = acutance.measure("ntk_alignment", model, data, **fields)
        assert found.status is status, found
        return found.message

    assert "all points are of one class" in message(model, (x, 0 * y))
    for copy, data in ((model, (x, y)), (built(mlp).float(), (x.float(), y))):
        assert "is the same for all pairs" in message(copy, data, parameters="2.bias")
        same = data[0][:1].expand_as(data[0]).clone()
        assert "is the same for all pairs" in message(copy, (same, y))
    large = nn.Linear(5, 3).double()
    assert "not finite" in message(large, (x * 1e200, y), Status.NONFINITE)
    mixing = nn.Sequential(nn.BatchNorm1d(5, track_running_stats=False), mlp()).double()
    assert "depends on the other examples" in message(mixing, (x, y))
    places = nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (3, 2))).double()
    target = torch.zeros(13, 2, dtype=torch.long)
    surface = acutance.LossSurface(places, (x, target), loss=nn.functional.cross_entropy)
    assert "one row of logits a point" in acutance.measure("ntk_alignment", surface).message


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_too_many_gradients_are_refused_and_the_points_that_may_be_taken_are_just_not(rows, monkeypatch):
    monkeypatch.setattr(tangent_kernel, "ROWS", rows)
    model, x, y = built(mlp), points(mlp, 40)[0], torch.arange(40) % 3
    for most in (25, 90, 119):
        monkeypatch.setattr(tangent_kernel, "MOST", most)
        found = acutance.measure("ntk_alignment", model, (x, y))
        assert found.status is Status.UNSUPPORTED and found.cost.backwards == 0
        few = int(found.message.split("take ")[-1].split()[0])
        assert (
            2 <= few < 40
            and f"of 40 points and 3 logits takes {tangent_kernel.gradients_of(40, 3, rows)} gradients"
            in (found.message)
        )
        assert tangent_kernel.gradients_of(few, 3, rows) <= most < tangent_kernel.gradients_of(few + 1, 3, rows)
        assert acutance.measure("ntk_alignment", model, (x[:few], y[:few])).status is Status.OK
    monkeypatch.setattr(tangent_kernel, "MOST", 5)
    assert "a model with fewer logits" in acutance.measure("ntk_alignment", model, (x, y)).message


def test_fewer_gradients_of_a_large_model_are_held(monkeypatch):
    model, (x, y) = built(mlp), points(mlp)
    row = 8 * sum(p.numel() for p in model.parameters())
    monkeypatch.setattr(tangent_kernel, "HELD", 4 * row + 1)
    found = acutance.measure("ntk_alignment", model, (x, y))
    assert found.cost.backwards == 3 * (13 + 9 + 5 + 1)
    monkeypatch.setattr(tangent_kernel, "HELD", 1)
    monkeypatch.setattr(tangent_kernel, "MOST", 100)
    assert ", of which 1 fit the memory" in acutance.measure("ntk_alignment", model, (x, y)).message


def test_what_a_spec_says_of_its_cost_and_memory():
    measure = catalog().get("measures", "ntk_alignment")()
    spec = measure.Spec()
    assert measure.vectors(spec) == tangent.ROWS + 3 * tangent.CHUNK
    assert (measure.passes(spec).forwards, measure.passes(spec).backwards) == (11, 10)
    assert measure.shares(spec) == "logits"
