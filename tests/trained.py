"""Four small networks trained to a low loss on real images (handwritten digits), so that sharpness means something."""

from functools import cache

import torch
import torch.nn.functional as F
from models import MLP, Attention, seeded
from torch import nn

from acutance_vision.networks.small import ResNet


class CNN(nn.Module):
    """Two convolutions without normalization, pooling, a linear map."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer block over the rows of an image."""

    def __init__(self, dim=16):
        super().__init__()
        self.embed = nn.Linear(8, dim)
        self.positions = nn.Parameter(0.1 * torch.randn(8, dim))
        self.block = Attention(dim, 2, 10)

    def forward(self, x):
        return self.block(self.embed(x[:, 0]) + self.positions)


# How to build each, and the largest learning rate.
NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Flatten(), MLP(F.relu, (64, 24, 10))), 0.02),
    "cnn": (CNN, 0.03),
    "resnet": (lambda: ResNet(width=4, blocks=1, channels=1), 0.01),
    "attention": (Tokens, 0.02),
}


@cache
def digits(n=256):
    """Return images (n, 1, 8, 8) of mean 0 and deviation 1, and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=seeded(0))[:n]
    images = torch.from_numpy(found.images)[order, None]
    return (images - images.mean()) / images.std(), torch.from_numpy(found.target)[order]


@cache
def trained(name, seed=0, steps=250):
    """Return (float64 network in evaluation mode, 64 of the points it was trained on)."""
    build, rate = NETWORKS[name]
    x, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build().double()
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    order = seeded(seed)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,), generator=order)
        loss = F.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval(), (x[:64], y[:64])
