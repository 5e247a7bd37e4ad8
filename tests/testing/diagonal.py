"""Diagonal linear networks, f(x) = <u v, x>: what the measure ``toy_beta`` is defined on."""

import torch
from torch import nn

from acutance.testing.problems import Problem
from acutance.testing.twins import Twin


class Diagonal(nn.Module):
    """(n, p) -> (n, 1)."""

    def __init__(self, p=5, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.u = nn.Parameter(torch.randn(p, generator=g, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(p, generator=g, dtype=torch.float64))

    def forward(self, x):
        return x @ (self.u * self.v)[:, None]


def points(n=16, p=5):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, p, generator=g, dtype=torch.float64), torch.randn(n, 1, generator=g, dtype=torch.float64)


def start():
    return Diagonal(seed=3)


def rescaled(model):
    model.u.mul_(3.0)
    model.v.div_(3.0)


PROBLEM = Problem("diagonal", Diagonal, points, loss="mse", initial=start)
TWIN = Twin("u and v", "f", "rescaling", PROBLEM, rescaled)
SURFACES = {"diagonal": PROBLEM, "twin": TWIN}
