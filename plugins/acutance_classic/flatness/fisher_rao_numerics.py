r"""The directional derivative of every example's loss along the weights themselves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance_classic.flatness.homogeneity import degree

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_classic.flatness.fisher_rao import FisherRaoSpec


@torch.no_grad()
def fisher_rao(view: LossSurface, spec: FisherRaoSpec) -> Estimate:
    r"""Return :math:`E_i \langle w, g_i \rangle^2`, from J w or, in a homogeneous network, from n f in its place."""
    raw = view.clean().raw
    if spec.form == "homogeneous":
        n = degree(view)
        along, extras = n * raw, {"degree": float(n)}
    else:
        along, extras = view.jvp(view.w), {}
    along = along.double()
    squares = variance(view, raw, along) if spec.labels == "sampled" else derivative(view, raw, along).square()
    value = float(squares.mean())
    return Estimate(value, extras=extras) if math.isfinite(value) else Estimate(math.nan)


def derivative(view: LossSurface, raw: Tensor, along: Tensor) -> Tensor:
    r"""Return :math:`\frac{\partial \ell_i}{\partial f} \cdot a_i`, (n,), for logits and directions a, both (n, K)."""
    with torch.enable_grad():
        logits = raw.detach().double().requires_grad_()
        (slopes,) = torch.autograd.grad(view.losses_of(logits).sum(), logits)
    return (slopes * along).flatten(1).sum(1)


def variance(view: LossSurface, raw: Tensor, along: Tensor) -> Tensor:
    r"""Return the expectation of the square for labels drawn from the softmax, (n,).

    .. math:: E_{y \sim p} \Big(\sum_k p_k a_k - a_y\Big)^2 = \sum_k p_k (a_k - \bar a)^2

    Raises:
        Unsupported: for another loss than cross-entropy.
    """
    if not view.classifies:
        raise Unsupported("labels are drawn from a softmax, the model of cross-entropy: with another loss give them")
    p = raw.double().softmax(1)
    return (p * (along - (p * along).sum(1, keepdim=True)).square()).sum(1)
