"""Diagonal linear networks for the conformance kit, which has no models of this kind itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from acutance.testing.problems import Problem
from acutance.testing.twins import Twin
from acutance_dln.network import DiagonalLinearNetwork

D, N = 5, 9  # inputs, points


def network() -> DiagonalLinearNetwork:
    """Return a network."""
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(2, D, generator=generator, dtype=torch.float64)
    return DiagonalLinearNetwork(u, v)


def points() -> tuple[Tensor, Tensor]:
    """Return Gaussian inputs, (n, d), and targets, (n,), which the network meets but for some noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return x, x @ network().beta.detach() + 0.3 * torch.randn(N, generator=generator, dtype=torch.float64)


def rescaled(model: DiagonalLinearNetwork) -> None:
    """Multiply u, and divide v."""
    model.u.mul_(3.0)
    model.v.div_(3.0)


PROBLEM = Problem("diagonal linear", network, points, loss="half_squared_sum")
SURFACES = [PROBLEM, replace(PROBLEM, name="mean", loss="mse"), Twin("u and v", "f", "rescaling", PROBLEM, rescaled)]
