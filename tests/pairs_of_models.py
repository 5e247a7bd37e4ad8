"""Small networks of several starts, briefly trained, and the barrier between two of them by hand."""

import torch
from torch import nn
from torch.func import functional_call

from acutance import LossSurface, Streams
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.spec import validate

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X[:, :3] * X[:, 3:]).argmax(1)


def trained(model, seed, x=X, y=Y, steps=60):
    """Return a network of another start after a short training: models of two seeds have a barrier."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    model.double().train()
    step = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        step.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        step.step()
    return model.eval()


def mlp(seed, activation=nn.ReLU, width=8):
    return trained(nn.Sequential(nn.Linear(6, width), activation(), nn.Linear(width, 3)), seed)


IMAGES = torch.randn(40, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KINDS = (IMAGES[:, :, 2:].mean((1, 2, 3)) > 0).long() + (IMAGES[:, 0].mean((1, 2)) > 0).long()


def conv_bn(seed):
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.BatchNorm2d(5), nn.ReLU()
    return trained(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)), seed, IMAGES, KINDS)


def compared(models, points, name="linear_barrier", loss="cross_entropy", **fields):
    """Return the values of a measure, and the surfaces of the models."""
    surfaces = [LossSurface(model, points, loss) for model in models]
    peers = [Peer.of(f"m{i}", surface) for i, surface in enumerate(surfaces)]
    target = catalog().get("measures", name)
    found = target().evaluate_pool(peers, validate(target.Spec, fields, name), Streams("test"))
    return found, surfaces


def mixed(a, b, t):
    """Return the state of two models, (1 - t) a + t b: parameters and running statistics alike."""
    return {k: (1 - t) * v + t * b.state_dict()[k] if v.is_floating_point() else v for k, v in a.state_dict().items()}


def by_hand(a, b, x, y, grid=11, read=nn.functional.cross_entropy, state=mixed):
    def value(t):
        return float(read(functional_call(a, state(a, b, t), (x,)), y))

    ts = [k / (grid - 1) for k in range(grid)]
    return max(value(t) - (1 - t) * value(0) - t * value(1) for t in ts)
