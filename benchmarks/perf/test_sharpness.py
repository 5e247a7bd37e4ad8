"""worst_case and average_case against the passes the mathematics needs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import acutance
from acutance import LossSurface
from acutance.plugins import catalog
from acutance_vision.networks import ResNet, SimpleViT


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10)), (1, 28, 28)


def resnet18_width16():
    return ResNet(16), (3, 32, 32)


def vit_depth6_dim128():
    return SimpleViT(32, 4, 128, 6, 4, 256), (3, 32, 32)


# model, Auto-PGD steps, draws, rounds, bound of worst_case, bound of average_case (DESIGN 7)
CASES = [
    (mlp, 20, 100, 30, 1.5, 2.5),
    (resnet18_width16, 4, 6, 3, 1.10, 1.10),
    (vit_depth6_dim128, 3, 4, 3, 1.10, 1.10),
]


def prepare(build):
    torch.manual_seed(0)
    model, shape = build()
    x, y = torch.randn(128, *shape), torch.randint(0, 10, (128,))
    parameters = list(model.eval().parameters())

    def forward():
        with torch.no_grad():
            return F.cross_entropy(model(x), y)

    def backward():
        return torch.autograd.grad(F.cross_entropy(model(x), y), parameters)

    surface = LossSurface(model, (x, y))
    surface.loss()
    return surface, forward, backward


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
def test_worst_case(compare, case, norm):
    build, steps, _, rounds, bound, _ = case
    surface, forward, backward = prepare(build)

    def bare():
        for _ in range(steps):
            backward()
        forward()

    def work():
        return acutance.measure("worst_case", surface, rho=0.002, norm=norm, start="random", steps=steps)

    found = work()
    assert (found.cost.forwards, found.cost.backwards) == (128 * (steps + 1), 128 * steps)
    compare(work, bare, rounds, bound)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
def test_average_case(compare, case):
    build, _, draws, rounds, _, bound = case
    surface, forward, _ = prepare(build)

    def bare():
        for _ in range(draws):
            torch.randn(surface.w.shape)
            forward()

    compare(lambda: acutance.measure("average_case", surface, rho=0.1, draws=draws), bare, rounds, bound)


@pytest.mark.parametrize("case", CASES[1:], ids=lambda c: c[0].__name__)
def test_a_second_loss_transform(compare, case):
    build, _, draws, rounds, *_ = case
    surface, _, _ = prepare(build)
    measure = catalog().measure("average_case")
    one = [measure.Spec(rho=0.1, draws=draws)]
    two = [*one, measure.Spec(rho=0.1, draws=draws, logit_norm=True)]
    rng = acutance.Streams(0)
    compare(
        lambda: measure.evaluate_many(surface, two, rng), lambda: measure.evaluate_many(surface, one, rng), rounds, 1.15
    )


@pytest.mark.parametrize("case", CASES[1:2], ids=lambda c: c[0].__name__)
def test_hvp_after_the_first(compare, case):
    surface, _, backward = prepare(case[0])
    v = torch.randn_like(surface.w)
    surface.hvp(v)
    compare(lambda: surface.hvp(v), backward, 5, 2.9)
