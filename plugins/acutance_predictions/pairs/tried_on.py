"""A network for the conformance kit whose layers have more rows than the subspaces that are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from acutance.testing.problems import Problem


def wide() -> torch.nn.Module:
    """Return a perceptron of 12 inputs, 16 hidden units and 4 classes."""
    generator = torch.Generator().manual_seed(5)
    first, last = (torch.nn.utils.skip_init(torch.nn.Linear, a, b) for a, b in ((12, 16), (16, 4)))
    model = torch.nn.Sequential(first, torch.nn.Tanh(), last).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    return model


def elsewhere() -> torch.nn.Module:
    """Return the same network at the weights that it started from."""
    model = wide()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * p.flip(0))
    return model


def points() -> tuple[Tensor, Tensor]:
    """Return 8 points of 4 classes."""
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return x, torch.arange(8) % 4


SURFACES = [Problem("wide_mlp", wide, points, initial=elsewhere)]
