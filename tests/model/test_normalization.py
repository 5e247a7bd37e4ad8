"""Normalized logits of very many classes: what automatic differentiation in float64 gives, by value and derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.live_memory import LiveBytes
from torch import nn

from acutance import LossSurface
from acutance.model import many_classes
from acutance.model.losses import cross_entropy, transform_of
from acutance.model.many_classes import many
from acutance.model.normalization import Normalization, normalize_logits
from acutance.model.normalized_rows import normalized
from acutance.own_code import in_own_type
from acutance_text.next_token import next_token

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
SCALES = ["paper", "released"]
LOGITS = {"plain": (0.0, 1.0), "far from 0": (50.0, 1.0), "close to each other": (3.0, 1e-2), "huge": (0.0, 1e25)}


def numbers(shape, seed, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def derivatives(normalize, logits, u, v, third=None):
    """Return the value, J^T u, and the gradients of v^T J^T u in the logits and in u, or of a function of these."""
    f, u = logits.clone().requires_grad_(), u.clone().requires_grad_()
    y = normalize(f)
    (pulled,) = torch.autograd.grad(y, f, u, create_graph=True)
    both = torch.autograd.grad(pulled, (f, u), v, create_graph=third is not None)
    if third is not None:
        return torch.autograd.grad(sum((x * third).sum() for x in both), (f, u))
    return [x.detach() for x in (y, pulled, *both)]


def close(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours.double() - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("where", LOGITS)
def test_values_and_derivatives_are_those_of_float64(dtype, scale, where):
    shift, size = LOGITS[where]
    f = (shift + size * numbers((70, 5000), 0, torch.float64)).to(dtype)
    u, v = numbers(f.shape, 1, dtype), numbers(f.shape, 2, dtype)
    assert many(f)
    expected = derivatives(lambda x: normalized(x, scale), f.double(), u.double(), v.double())
    found = derivatives(lambda x: normalize_logits(x, scale), f, u, v)
    if size > 1:  # second derivatives in the logits are below what float32 knows
        del found[2], expected[2]
    close(found, expected, TOLERANCE[dtype])
    jacobian = Normalization(scale).linearized(f)
    close([jacobian.outputs, *jacobian.vjp(u), jacobian.jvp([v])], [*expected[:2], expected[-1]], TOLERANCE[dtype])


@pytest.mark.parametrize("scale", SCALES)
def test_third_derivatives_are_those_of_float64(scale):
    f, u, v, third = (numbers((70, 5000), seed, torch.float64) for seed in range(4))
    found, expected = (
        derivatives(n, f, u, v, third) for n in (lambda x: normalize_logits(x, scale), lambda x: normalized(x, scale))
    )
    close(found, expected, 1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_constant_logits_carry_no_direction(dtype, scale):
    f = numbers((70, 5000), 0, dtype)
    f[3] = 2.0
    u, v = numbers(f.shape, 1, dtype), numbers(f.shape, 2, dtype)
    expected = derivatives(lambda x: normalized(x, scale), f.double(), u.double(), v.double())
    found = derivatives(lambda x: normalize_logits(x, scale), f, u, v)
    close([x[3] for x in found[:2]] + [found[3][3]], [x[3] for x in expected[:2]] + [expected[3][3]], TOLERANCE[dtype])
    assert not found[2][3].any() and not expected[2][3].any()


@pytest.mark.parametrize("scale", SCALES)
def test_a_logit_that_is_no_number_makes_its_row_none(scale):
    f = numbers((70, 5000), 0, torch.float32)
    for lost in (math.nan, math.inf):
        f[1, 2] = lost
        y = normalize_logits(f, scale)
        assert not y[1].isfinite().all() and y[[0, *range(2, 70)]].isfinite().all()
        assert not cross_entropy(y, torch.zeros(70, dtype=torch.long))[1].isfinite()


@pytest.mark.parametrize("scale", SCALES)
def test_few_classes_are_normalized_in_float64(scale):
    f = numbers((70, 10), 0, torch.float32)
    assert torch.equal(transform_of(True, scale)(f), normalized(f.double(), scale))


@pytest.mark.parametrize("scale", SCALES)
def test_a_product_holds_few_copies_of_the_logits(scale):
    f, y = numbers((250, 8192), 0, torch.float32), torch.arange(250)
    u = numbers(f.shape, 1, torch.float32)

    def product():
        leaf = f.clone().requires_grad_()
        loss = cross_entropy(transform_of(True, scale)(leaf), y).mean()
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return torch.autograd.grad(slope, leaf, u)

    product()
    with LiveBytes() as memory:
        product()
    # The leaf, and blocks that are half as large as these logits; the plain way holds 25.
    assert memory.peak <= 9 * f.numel() * f.element_size()


class Tokens(nn.Module):
    """Logits of a vocabulary at each place; places that a mask leaves out see nothing of the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 4500)

    def forward(self, x, attention_mask):
        hidden = torch.tanh(self.body(x)) * attention_mask[..., None]
        return self.head(hidden + hidden.cumsum(1))


def smoothed(logits, targets):
    """Cross-entropy with smoothed labels, by the tokens that count."""
    wanted = targets[:, 1:]
    counts = wanted != -100
    each = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).double(), wanted.clamp_min(0).flatten(), reduction="none", label_smoothing=0.1
    ).view(wanted.shape)
    return (each * counts).sum(1) / counts.sum(1).clamp_min(1), counts.sum(1).double()


@pytest.mark.parametrize(("loss", "scale"), [(next_token, "paper"), (smoothed, "released")])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_surfaces_of_ignored_and_masked_tokens_are_the_same_in_every_way(monkeypatch, dtype, scale, loss):
    x, y = numbers((6, 30, 4), 0, dtype), torch.randint(4500, (6, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(6, 30, dtype=dtype)
    y[0, 5:9] = -100
    y[2, 1:] = -100  # a block without a token to predict
    for row, end in ((1, 11), (4, 3)):
        mask[row, end:], y[row, end:] = 0, -100
    data = {"x": x, "attention_mask": mask}, y

    def found(microbatch):
        surface = LossSurface(Tokens().to(dtype), data, loss=loss, microbatch=microbatch).transformed(True, scale)
        v = numbers(surface.w.shape, 3, dtype)
        products = [surface.hvp(v), surface.ggnvp(v), surface.jvp(v)]
        return [surface.loss(), surface.losses(), surface.gradient()[1], *products, surface.vjp(products[2])]

    ways = [found(None), found(4)]
    monkeypatch.setattr(many_classes, "MANY", 1 << 40)
    expected = found(None)
    for way in ways:
        for ours, theirs in zip(way, expected, strict=True):
            tolerance = 1e-12 if dtype == torch.float64 else 3e-6
            assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())
    assert float((ways[0][0] - expected[0]) / expected[0]) == pytest.approx(0.0, abs=TOLERANCE[dtype])


@pytest.mark.parametrize("scale", SCALES)
def test_a_loss_of_ones_own_is_given_double_numbers_unless_it_says_it_makes_its_own(scale):
    def plain(logits, targets):
        kinds.add(logits.dtype)
        return F.cross_entropy(logits, targets)

    kinds = set()
    x, y = numbers((70, 4), 0, torch.float32), torch.arange(70)
    torch.manual_seed(0)
    model = nn.Linear(4, 4500)
    surface = LossSurface(model, (x, y), loss=plain).transformed(True, scale)
    exact = F.cross_entropy(normalize_logits(model(x).detach().double(), scale), y)
    surface.check()
    kinds.clear()
    assert float(surface.loss()) == pytest.approx(float(exact), rel=1e-13) and kinds == {torch.float64}
    v = numbers(surface.w.shape, 3, torch.float32)
    named = LossSurface(model, (x, y)).transformed(True, scale)
    for ours, theirs in ((surface.ggnvp(v), named.ggnvp(v)), (surface.hvp(v), named.hvp(v)),
                         (surface.vjp(surface.jvp(v)), named.vjp(named.jvp(v)))):  # fmt: skip
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())
    surface = LossSurface(model, (x, y), loss=in_own_type(plain)).transformed(True, scale)
    surface.check()
    kinds.clear()
    assert float(surface.loss()) == pytest.approx(float(exact), rel=1e-6) and kinds == {torch.float32}


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_of_single_examples_stay_vectorised(scale):
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(3, 5000)

        def forward(self, x):
            return self.head(x)

    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(4, 60, 3, generator=g), torch.randint(5000, (4, 60), generator=g)
    mean = lambda f, t: cross_entropy(f.flatten(0, 1), t.flatten()).mean()  # noqa: E731
    surface = LossSurface(Places(), (x, y), loss=mean).transformed(True, scale)
    each = torch.cat(list(surface.example_gradients()))
    assert surface.core.vectorises
    torch.testing.assert_close(each.mean(0), surface.gradient()[1], rtol=1e-4, atol=1e-8)
