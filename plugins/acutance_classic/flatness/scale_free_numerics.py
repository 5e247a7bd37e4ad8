"""Diagonals of curvature, and the scales at which they weigh least."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance.numerics.traces import mean_and_error
from acutance_classic.flatness.homogeneity import degree

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.flatness.scale_free import MinimumSpec, NormalizedSpec

MAPS = ("Linear", "Conv", "MultiheadAttention")  # kinds of modules whose weights are matrices between neurons
TOLERANCE, MOST = 1e-12, 10_000  # of the alternating solver, relative; and its iterations
TINY = 1e-150  # instead of the zero of an empty row, whose scale is then far, and harmless


def gauss_newton_roots(view: LossSurface, probes: int, rng: Streams) -> Iterator[Tensor]:
    r"""Yield :math:`v = J^\top u / \sqrt n`, (p,), with :math:`E\, v v^\top = G`: u_i = R_i signs, R_i R_i' = H_i.

    Raises:
        Unsupported: for a loss whose Hessian in the logits is not known here.
    """
    raw = view.clean().raw
    root = raw.double().softmax(1).sqrt() if view.classifies else None
    if root is None and view.criterion != "mse":
        raise Unsupported(
            "the Gauss-Newton matrix is taken apart for cross-entropy and mse, not for a loss of one's own"
        )
    for k in range(probes):
        signs = rng.signs("signs", k, raw).double()
        if root is None:
            u = math.sqrt(2) * signs
        else:
            u = root * signs - root.square() * (root * signs).sum(1, keepdim=True)
        yield view.vjp(u.to(raw)).div_(math.sqrt(view.n))


def diagonal(view: LossSurface, spec: NormalizedSpec, rng: Streams) -> Tensor:
    """Return the diagonal of the curvature in float64, (p,): exact where each weight has a product of its own."""
    w = view.w
    total = torch.zeros_like(w, dtype=torch.float64)
    if spec.curvature == "ggn":
        for v in gauss_newton_roots(view, spec.probes, rng):
            total += v.double().square()
        return total / spec.probes
    exact, together = w.numel() <= spec.probes, view.products_together
    count = w.numel() if exact else spec.probes
    for start in range(0, count, together):
        draws = range(start, min(start + together, count))
        z = torch.stack([_unit(w, k) if exact else rng.signs("signs", k, w) for k in draws])
        total += (z * view.hvps(z)).double().sum(0)
    return total if exact else total / count


def _unit(like: Tensor, i: int) -> Tensor:
    unit = torch.zeros_like(like)
    unit[i] = 1
    return unit


def matrices(view: LossSurface, *vectors: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield (name, the sum over kernel positions of each vector, (groups, rows, columns)) for every weight matrix."""
    for name, kind, shape, part in view.layers:
        if len(shape) >= 2 and any(word in kind for word in MAPS):
            module = view.model.get_submodule(name.rpartition(".")[0])
            groups = int(getattr(module, "groups", 1))
            yield name, [v[part].view(groups, shape[0] // groups, shape[1], -1).sum(-1) for v in vectors]


def least(h: Tensor, squares: Tensor) -> float:
    r"""Return :math:`\min_{a, b > 0} \sum_{ij} h_{ij} a_i b_j + s_{ij} / (a_i b_j)`; h, s >= 0 are (rows, columns).

    With :math:`a_i = \sqrt{(s b^{-1})_i / (h b)_i}` it is :math:`2 \sum_i \sqrt{(h b)_i (s b^{-1})_i}`; b likewise.
    """
    b, value = torch.ones_like(h[0]), math.inf
    for _ in range(MOST):
        up, down = h @ b, squares @ b.reciprocal()
        value, before = 2 * float((up * down).sqrt().sum()), value
        if before - value <= TOLERANCE * value:
            break
        a = (down.clamp_min(TINY) / up.clamp_min(TINY)).sqrt()
        b = ((a.reciprocal() @ squares).clamp_min(TINY) / (a @ h).clamp_min(TINY)).sqrt()
    return value


@torch.no_grad()
def normalized_sharpness(surface: LossSurface, spec: NormalizedSpec, rng: Streams) -> Estimate:
    """Return the sum over the weight matrices of the least sharpness over row and column scales."""
    names = [name for name, _ in matrices(surface, surface.w)]
    if not names:
        raise Unsupported(
            "no linear map or convolution is among the parameters: there are no rows and columns to scale"
        )
    view = surface.restricted(",".join(names))
    h = diagonal(view, spec, rng)
    if not bool(h.isfinite().all()):
        return Estimate.without_value(Status.NONFINITE, "a product is not finite: the loss overflows at these weights")
    negative = h < 0
    parts = matrices(view, h.clamp_min(0), view.w.double().square())
    values = {name: math.fsum(least(*group) for group in zip(*pair, strict=True)) for name, pair in parts}
    extras = {"negative_share": float(negative.double().mean()), "matrices": float(len(values))}
    return Estimate(math.fsum(values.values()), extras=extras)


@torch.no_grad()
def minimum_sharpness(view: LossSurface, spec: MinimumSpec, rng: Streams) -> Estimate:
    """Return n times the geometric mean of the traces of the layers' Gauss-Newton blocks."""
    n = degree(view)
    rows = [
        [float(v[part].double().square().sum()) for _, _, _, part in view.layers]
        for v in gauss_newton_roots(view, spec.probes, rng)
    ]
    traces = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    if not all(map(math.isfinite, traces)):
        return Estimate(math.nan)
    if min(traces) == 0:
        raise Unsupported("a layer has no curvature: its scale can take all others with it, and the least is zero")
    value = n * math.exp(math.fsum(map(math.log, traces)) / n)
    # A relative error of the geometric mean is the mean of those of its factors.
    relative = [math.fsum(x / t for x, t in zip(row, traces, strict=True)) / n for row in rows]
    stderr = mean_and_error(relative)[1]
    return Estimate(value, None if stderr is None else value * stderr)
