"""Diagonal linear networks and designs for the tests: their Hessians are known."""

import torch
from models import seeded

from acutance_dln.network import DiagonalLinearNetwork

LOSSES = ("half_squared_sum", "squared_sum", "mse")
DESIGNS = ("gaussian", "unit_columns", "orthonormal")


def design(kind, n, d, seed=0):
    """(n, d) inputs in float64."""
    x = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)
    if kind == "orthonormal":
        assert n >= d
        return torch.linalg.qr(x)[0]
    return x / x.norm(dim=0) if kind == "unit_columns" else x


def network(d=6, seed=1, zeros=0):
    """A network whose first ``zeros`` pairs have u = 0, v = 0 or both, in turn."""
    g = seeded(seed)
    u, v = (torch.randn(d, generator=g, dtype=torch.float64) for _ in range(2))
    for i in range(zeros):
        if i % 3 != 1:
            u[i] = 0
        if i % 3 != 0:
            v[i] = 0
    return DiagonalLinearNetwork(u, v)


def points(net, kind="gaussian", n=9, noise=0.0, seed=0):
    """Inputs, and targets that the network meets but for some noise."""
    x = design(kind, n, len(net.u), seed)
    y = x @ net.beta.detach()
    return x, y + noise * torch.randn(n, generator=seeded(seed + 100), dtype=torch.float64)


def weights(net):
    return net.u.detach(), net.v.detach()


def c_of(scaling, u, v):
    """(2d,) c, written out."""
    if scaling == "none":
        return torch.ones(2 * len(u), dtype=torch.float64)
    if scaling == "elementwise":
        return torch.cat([u.abs(), v.abs()])
    pairs = [
        ((abs(a / b)) ** 0.5, (abs(b / a)) ** 0.5) if a * b else (0.0, 0.0)
        for a, b in zip(u.tolist(), v.tolist(), strict=True)
    ]
    return torch.tensor([a for a, _ in pairs] + [b for _, b in pairs], dtype=torch.float64)
