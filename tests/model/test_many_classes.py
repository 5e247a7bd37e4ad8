"""Cross-entropy of very many classes: torch's in float64, by value and by both derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from acutance import LossSurface
from acutance.model import many_classes
from acutance.model.losses import cross_entropy
from acutance.model.many_classes import cross_entropies, worthwhile

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def problem(dtype, n=70, classes=5000, scale=3.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return logits.to(dtype), torch.randint(classes, (n,), generator=g), torch.rand(n, generator=g, dtype=torch.float64)


def derivatives(loss, logits, u):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf)
    (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
    (product,) = torch.autograd.grad(slope, leaf, u.to(slope))
    return value.detach(), slope.detach(), product


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("outer", ["sum", "square"])
def test_loss_gradient_and_products_are_those_of_torch_in_float64(dtype, outer):
    logits, y, w = problem(dtype)
    u = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = lambda each: (w * each).sum() if outer == "sum" else (w * each).sum().square() + each[3]  # noqa: E731
    assert worthwhile(logits)
    found = derivatives(lambda f: loss(cross_entropies(f, y)), logits, u)
    expected = derivatives(lambda f: loss(F.cross_entropy(f.double(), y, reduction="none")), logits.double(), u)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= TOLERANCE[dtype] * float(theirs.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_losses_near_zero_keep_their_digits(dtype):
    logits, y, _ = problem(dtype, scale=0.1)
    for gap in (15.0, 30.0):
        sure = logits.clone()
        sure[torch.arange(len(y)), y] = gap
        others = (sure.double() - gap).exp().scatter(1, y[:, None], 0.0).sum(1)
        assert float((cross_entropies(sure, y) / others.log1p() - 1).abs().max()) < 3e-6  # torch's own: 1e-5


def test_logits_of_any_size_and_of_masked_classes():
    logits, y, w = problem(torch.float32)
    masked = logits.clone()
    masked[:, -100:] = -math.inf
    y = y % 4000
    for scaled in (logits * 1e30, logits + 1e6, masked):
        found = derivatives(lambda f: (w * cross_entropies(f, y)).sum(), scaled, torch.ones_like(scaled))
        expected = derivatives(
            lambda f: (w * F.cross_entropy(f, y, reduction="none")).sum(), scaled.double(), torch.ones_like(scaled)
        )
        assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-6)
        assert torch.allclose(found[1].double(), expected[1], rtol=1e-5, atol=1e-8)
    for lost in (math.nan, math.inf):
        broken = logits.clone()
        broken[1, 2] = lost
        each = cross_entropies(broken, y)
        assert not each[1].isfinite() and int(each.isfinite().sum()) == len(y) - 1


def test_the_third_derivative_is_that_of_torch():
    logits, y, w = problem(torch.float64)
    y[5] = -100  # torch's ignore_index
    u = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for each in (cross_entropies, lambda f, y: F.cross_entropy(f, y, reduction="none")):
        leaf = logits.clone().requires_grad_()
        loss = (w * each(leaf, y)).sum().square()
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (product,) = torch.autograd.grad(slope, leaf, u, create_graph=True)
        found.append(torch.autograd.grad(product, leaf, u)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-14)


class Vocabulary(nn.Module):
    """A hidden layer in front of very many classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 4500)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


@pytest.mark.parametrize("logit_norm", [False, True])
@pytest.mark.parametrize("microbatch", [None, 60])
def test_a_surface_has_the_values_of_the_plain_way(monkeypatch, microbatch, logit_norm):
    g = torch.Generator().manual_seed(2)
    data = torch.randn(130, 4, generator=g, dtype=torch.float64), torch.randint(4500, (130,), generator=g)

    def found():
        surface = LossSurface(Vocabulary().double(), data, microbatch=microbatch).transformed(logit_norm)
        v = torch.randn(surface.w.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        return [surface.loss(), surface.losses(), surface.gradient()[1], surface.hvp(v), surface.ggnvp(v)]

    ours = found()
    taken = []
    monkeypatch.setattr(many_classes, "MANY", 1 << 40)
    monkeypatch.setattr(many_classes, "cross_entropies", lambda *a: taken.append(a))
    for here, there in zip(ours, found(), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-13)
    assert not taken


@pytest.mark.parametrize("classes", [5000, 1 << 18])
def test_gradients_of_single_examples_stay_vectorised(classes):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(3, classes)

        def forward(self, x):
            return self.head(x)

    g = torch.Generator().manual_seed(4)
    n, places = (4, 60) if classes == 5000 else (3, 0)
    x = torch.randn(n, *((places,) if places else ()), 3, generator=g)
    y = torch.randint(classes, (n, places) if places else (n,), generator=g)
    loss = (lambda f, t: cross_entropy(f.flatten(0, 1), t.flatten()).mean()) if places else "cross_entropy"
    surface = LossSurface(Tokens(), (x, y), loss=loss)
    mean = torch.cat(list(surface.example_gradients())).mean(0)
    assert surface.core.vectorises
    torch.testing.assert_close(mean, surface.gradient()[1], rtol=1e-4, atol=1e-8)


def test_examples_that_do_not_count_add_nothing_whatever_their_logits():
    logits, y, w = problem(torch.float64)
    y[[3, 69]] = -100
    logits[3, 5], logits[69] = math.inf, math.nan
    u = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = y >= 0
    found = derivatives(lambda f: (w * cross_entropies(f, y)).sum().square(), logits, u)
    kept = derivatives(lambda f: (w[counts] * cross_entropies(f, y[counts])).sum().square(), logits[counts], u[counts])
    assert torch.allclose(found[0], kept[0], rtol=1e-14)
    for ours, theirs in zip(found[1:], kept[1:], strict=True):
        assert torch.allclose(ours[counts], theirs, rtol=1e-12, atol=0)
        assert not ours[~counts].count_nonzero()


def test_the_loss_of_next_tokens_takes_the_logits_as_they_lie(monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    from acutance_text.next_token import IGNORED, next_token

    n, length, size = 3, 40, 5000
    logits, _, _ = problem(torch.float64, n * length, size)
    logits = logits.view(n, length, size)
    tokens = torch.randint(size, (n, length), generator=torch.Generator().manual_seed(2))
    tokens[1, 30:] = IGNORED
    u = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def mean(f):
        sums, counts = next_token(f, tokens)
        return (sums * counts).sum() / counts.sum()

    class Copies(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            whole = isinstance(found, torch.Tensor) and found.numel() >= logits.numel() * (length - 1) // length
            self.seen += whole and func.name().split("::")[1].split(".")[0] in {"copy_", "clone", "fill_", "zero_"}
            return found

    with Copies() as copies:
        found = derivatives(mean, logits, u)
    assert copies.seen == 1  # the leaf's own
    monkeypatch.setattr(many_classes, "MANY", 10**9)
    expected = derivatives(mean, logits, u)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-12 * float(theirs.abs().max())
    assert not found[1][:, -1].count_nonzero()
