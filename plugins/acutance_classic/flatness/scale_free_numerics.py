"""The scales at which the diagonal of a curvature weighs least."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance.numerics.traces import mean_and_error
from acutance_classic.flatness.diagonals import diagonal, gauss_newton_roots, matrices
from acutance_classic.flatness.homogeneity import degree

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.flatness.scale_free import MinimumSpec, NormalizedSpec

TOLERANCE, MOST = 1e-12, 10_000  # of the alternating solver, relative; and its iterations
TINY = 1e-150  # instead of the zero of an empty row, whose scale is then far, and harmless
NOISE, CLIPPED = 3.0, 0.05  # standard errors below zero that noise goes, and the share of the value it may make
TOO_LARGE = (
    "the probes leave so much noise in the diagonal that clipping its negative entries makes about {:.0%} of the "
    "value: take curvature: ggn, which has none, or as many probes as weights"
)


def solved(h: Tensor, squares: Tensor) -> tuple[float, Tensor, Tensor]:
    r"""Return :math:`\min_{a, b > 0} \sum_{ij} h_{ij} a_i b_j + s_{ij} / (a_i b_j)`, and a and b.

    h, s >= 0 are (rows, columns). With :math:`a_i = \sqrt{(s b^{-1})_i / (h b)_i}` it is
    :math:`2 \sum_i \sqrt{(h b)_i (s b^{-1})_i}`; b likewise.
    """
    a, b, value = torch.ones_like(h[:, 0]), torch.ones_like(h[0]), math.inf
    for _ in range(MOST):
        up, down = h @ b, squares @ b.reciprocal()
        value, before = 2 * float((up * down).sqrt().sum()), value
        a = (down.clamp_min(TINY) / up.clamp_min(TINY)).sqrt()
        if before - value <= TOLERANCE * value:
            break
        b = ((a.reciprocal() @ squares).clamp_min(TINY) / (a @ h).clamp_min(TINY)).sqrt()
    return value, a, b


@torch.no_grad()
def normalized_sharpness(surface: LossSurface, spec: NormalizedSpec, rng: Streams) -> Estimate:
    r"""Return the sum over the weight matrices of the least sharpness over row and column scales.

    At the best scales a change of the diagonal moves the value by :math:`\sum dH_{ij} a_i b_j`: the standard error is
    that of this sum over sets of probes, and the negative entries that noise made have the bias of clipping.
    """
    names = [name for name, _ in matrices(surface, surface.w)]
    if not names:
        raise Unsupported(
            "no linear map or convolution is among the parameters: there are no rows and columns to scale"
        )
    view = surface.restricted(",".join(names))
    h = diagonal(view, spec, rng)
    if not bool(h.value.isfinite().all()):
        return Estimate.without_value(Status.NONFINITE, "a product is not finite: the loss overflows at these weights")
    negative = h.value < 0
    # For an entry that is zero or more the mean of what noise takes below zero is that by which clipping lifts it.
    noise = (-h.value).clamp_min(0).masked_fill(-h.value > NOISE * h.error, 0.0)
    vectors = [h.value.clamp_min(0), view.w.double().square(), noise, *h.parts.masked_fill(negative, 0.0)]
    value, lost, samples = 0.0, 0.0, [0.0] * len(h.parts)
    for _, grids in matrices(view, *vectors):
        for curvature, squares, clipped, *parts in zip(*grids, strict=True):
            least, a, b = solved(curvature, squares)
            value, lost = value + least, lost + float(a @ clipped @ b)
            samples = [x + float(a @ part @ b) for x, part in zip(samples, parts, strict=True)]
    share = lost / (lost + value) if lost else 0.0
    extras = {"negative_share": float(negative.double().mean()), "matrices": float(len(names)), "clipped_noise": share}
    if share <= CLIPPED:
        return Estimate(value, mean_and_error(samples)[1], extras=extras)
    return Estimate(value, None, Status.NOT_CONVERGED, TOO_LARGE.format(share), extras=extras)


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
