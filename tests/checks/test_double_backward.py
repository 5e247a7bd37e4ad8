"""Double backward that is not the derivative of the gradient is found, named and refused; sound networks never are."""

import warnings

import pytest
import torch
from models import MLP, Attention, ConvBN, conv_data, mlp_data, snapshot, token_data
from torch import nn

import acutance
from acutance import LossSurface, Unsupported
from acutance.checks.double_backward import wrong_products


def points(n=24, d=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, d, generator=generator), torch.arange(n) % 3


class Cubed(torch.autograd.Function):
    """The cube, with a right gradient; how it is made is named."""

    @staticmethod
    def forward(ctx, x, how):
        ctx.save_for_backward(x)
        ctx.how = how
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        if ctx.how == "numpy":
            return g * torch.from_numpy(3 * x.detach().numpy() ** 2), None
        if ctx.how == "detached":
            return g * 3 * x.detach() ** 2, None
        if ctx.how == "detached output":
            return g.detach() * 3 * x**2, None
        if ctx.how == "recomputed":
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                (found,) = torch.autograd.grad(leaf**3, leaf, g)
            return found, None
        return g * 3 * x**2, None


class Cube(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.how = nn.Linear(5, 6), nn.Linear(6, 3), how

    def forward(self, x):
        return self.b(Cubed.apply(self.a(x), self.how))


def normed(dim, how=nn.utils.parametrizations.weight_norm):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older one is deprecated
        layer = how(nn.Linear(5, 6), dim=dim)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 3))


WRONG = {
    "weight norm 0": lambda: normed(0), "weight norm 1": lambda: normed(1),
    "older weight norm": lambda: normed(0, nn.utils.weight_norm),
    **{how: lambda how=how: Cube(how) for how in ("numpy", "detached", "detached output", "recomputed")},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", WRONG)
def test_a_product_that_is_not_the_derivative_of_the_gradient_is_named_and_refused(how, dtype):
    model = WRONG[how]()
    before = snapshot(model)
    surface = LossSurface(model, points(), dtype=dtype)
    surface.gradient()
    spent = surface.cost.checks
    for call in (
        lambda: surface.hvp(surface.w),
        lambda: surface.hvps(surface.w[None]),
        lambda: surface.hvp(surface.w, 2 * surface.w),
    ):
        with pytest.raises(Unsupported, match=r"in (0|a)\..* is not the derivative of the gradient"):
            call()
    assert surface.cost.checks - spent == 3 + 4 + 3 + 3
    after = snapshot(model)
    assert after["identities"] == before["identities"] and after["pointers"] == before["pointers"]
    if how not in ("detached output", "recomputed"):  # products with the Jacobian see these themselves
        surface.ggnvp(surface.w)


def test_a_measure_says_that_finite_differences_are_right():
    found = acutance.measure("hessian_trace", normed(0), points(), dtype="float64", probes=20)
    assert found.status == "unsupported" and "finite_difference" in found.message
    kwargs = {"dtype": "float64", "probes": 20, "product": "finite_difference"}
    value = acutance.measure("hessian_trace", normed(0), points(), **kwargs).value
    right = Cube("right")
    torch.testing.assert_close(
        acutance.measure("hessian_trace", right, points(), dtype="float64", probes=20).value,
        acutance.measure("hessian_trace", Cube("numpy"), points(), **kwargs).value, rtol=1e-5, atol=0,
    )  # fmt: skip
    assert value > 0


def test_parameters_behind_it_alone_are_right():
    surface = LossSurface(normed(0), points()).restricted("2.*")
    assert surface.hvp(surface.w).isfinite().all()


class Steep(Cube):
    """Differences of its gradient are not the product at any length that is looked at, and come closer to it."""

    def forward(self, x):
        return self.b((1e6 * self.a(x)).sin())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def scaled(factor):
    torch.manual_seed(0)
    net = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(5, 5), nn.Softmax(1))], nn.Linear(5, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(factor)
    return net


def pooled():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3))


def zero():
    net = wide()
    for layer in net[::2]:
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(net[-1].weight)
    return net


def images():
    return torch.randn(128, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(128) % 3


SOUND = {
    "mlp": (MLP, mlp_data), "conv": (ConvBN, conv_data), "attention": (Attention, token_data), "pool": (pooled, images),
    "lstm": (Recurrent, lambda: (torch.randn(24, 3, 4), torch.arange(24) % 3)), "wide": (wide, lambda: points(128)),
    "saturated": (lambda: scaled(1e3), points), "flat": (lambda: scaled(0.0), points), "zero": (zero, points),
    "tiny": (lambda: scaled(1e-6), points), "right": (lambda: Cube("right"), points),
    "steep": (lambda: Steep(""), points),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", SOUND)
def test_sound_networks_are_never_refused(how, dtype):
    model, data = SOUND[how]
    surface = LossSurface(model(), data(), dtype=dtype)
    assert wrong_products(surface.core) == frozenset()


def test_it_costs_a_product_and_two_gradients_over_a_few_examples_once_a_model():
    surface = LossSurface(Cube("right"), points(128))
    surface.gradient()
    spent = surface.cost.checks
    surface.hvp(surface.w), surface.hvp(surface.w, 2 * surface.w), surface.hvps(surface.w[None])
    assert surface.cost.checks - spent == 8 * (3 + 4 + 3) and surface.cost.checks <= 3 * 128
    again = LossSurface(surface.core.functional, points(64))
    again.gradient()
    spent = again.cost.checks
    again.hvp(again.w)
    assert again.cost.checks == spent


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_tiny_batches_pay_no_more_than_ten_forwards_of_an_example(n):
    surface = LossSurface(Cube("right"), points(n))
    surface.gradient()
    spent = surface.cost.checks
    surface.hvp(surface.w)
    assert surface.cost.checks - spent == 10 <= max(10, 3 * n)


class Hungry(Cube):
    """Needs more memory than there is, in float64."""

    def forward(self, x):
        if x.dtype == torch.float64:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("no memory is left"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
])  # fmt: skip
def test_a_lack_of_memory_says_nothing_about_the_model(error):
    model = Hungry("right")
    model.error = error
    surface = LossSurface(model, points())
    surface.gradient()
    with pytest.raises(type(error), match="memory"):
        surface.hvp(surface.w)
    assert surface.core.functional.wrong_products is None


def test_a_gradient_alone_and_gauss_newton_do_not_ask():
    surface = LossSurface(normed(0), points())
    surface.gradient(), surface.ggnvp(surface.w), surface.jvp(surface.w)
    assert surface.core.functional.wrong_products is None
    assert wrong_products(surface.core)


class CubeLoss(torch.autograd.Function):
    """A loss with a right gradient, whose second derivative is that of how it is made."""

    @staticmethod
    def forward(ctx, f, right):
        ctx.save_for_backward(f)
        ctx.right = right
        return (f**3).mean()

    @staticmethod
    def backward(ctx, g):
        (f,) = ctx.saved_tensors
        return g * 3 * (f if ctx.right else f.detach()) ** 2 / f.numel(), None


def partly(f, y):
    logits = torch.nn.functional.cross_entropy(f, y)
    return logits + CubeLoss.apply(f, False)


BAD_LOSSES = {"all": lambda f, y: CubeLoss.apply(f, False), "a part": partly}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", BAD_LOSSES)
def test_a_loss_whose_second_derivative_is_wrong_has_no_exact_products(how, dtype):
    surface = LossSurface(MLP(), mlp_data(), loss=BAD_LOSSES[how], dtype=dtype)
    surface.gradient()
    for call in (surface.hvp, surface.ggnvp):
        with pytest.raises(Unsupported, match=r"second derivative of your loss .* is not that of its gradient"):
            call(surface.w)
    surface.jvp(surface.w)
    fields = {"probes": 20, "dtype": dtype}
    other = acutance.measure("hessian_trace", MLP(), mlp_data(), loss=lambda f, y: (f**3).mean(), **fields)
    found = acutance.measure(
        "hessian_trace", MLP(), mlp_data(), loss=BAD_LOSSES["all"], product="finite_difference", **fields
    )
    assert found.value == pytest.approx(other.value, rel=1e-2)


F = torch.nn.functional
SOUND_LOSSES = {
    "cube": lambda f, y: CubeLoss.apply(f, True),
    "cross entropy": F.cross_entropy,
    "smoothing": lambda f, y: F.cross_entropy(f, y, label_smoothing=0.2),
    "focal": lambda f, y: (lambda p: -((1 - p.exp()) ** 2 * p).mean())(F.log_softmax(f, 1).gather(1, y[:, None])[:, 0]),
    "huber": lambda f, y: F.huber_loss(f, F.one_hot(y, 4).to(f)),
    "absolute": lambda f, y: F.l1_loss(f, F.one_hot(y, 4).to(f)),
    "margin": F.multi_margin_loss,
    "triplet": lambda f, y: F.triplet_margin_loss(f, f.roll(1, 0), f.roll(2, 0)),
    "gaussian": lambda f, y: F.gaussian_nll_loss(f[:, 0], y.to(f), f[:, 1].exp()),
    "binary": lambda f, y: F.binary_cross_entropy(f.sigmoid(), F.one_hot(y, 4).to(f)),
    "probabilities": lambda f, y: F.nll_loss(f.softmax(1).log(), y),
    "contrastive": lambda f, y: -((F.normalize(f) @ F.normalize(f).T).log_softmax(1) * (y[:, None] == y)).mean(),
    "weights": lambda f, y: (F.cross_entropy(f, y, reduction="none"), 1.0 + y.to(f)),
    "errors": lambda f, y: (f.argmax(1) != y).to(f).mean(),
    "root": lambda f, y: f.abs().sqrt().mean(),
    "steep": lambda f, y: (1e5 * f).sin().mean(),
}


@pytest.mark.parametrize("how", SOUND_LOSSES)
def test_losses_whose_second_derivative_is_right_are_never_refused(how):
    surface = LossSurface(MLP(), mlp_data(), loss=SOUND_LOSSES[how])
    surface.check()
    surface.core.refuse_products()
    assert surface.core.loss_products == "" and surface.cost.checks == 0
