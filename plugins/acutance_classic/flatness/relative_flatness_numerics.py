"""The closed form of relative flatness for the last layer, and its estimate for any other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from acutance.errors import Unsupported, UserError
from acutance.measure import Estimate
from acutance.numerics.traces import mean_and_error

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SATURATED = (
    "the curvature of every point is exactly zero: the softmax is saturated in this precision, or numbers underflow; "
    "try dtype float64"
)


@torch.no_grad()
def of_the_last_layer(surface: LossSurface) -> Estimate:
    r"""Return :math:`\frac1n \sum_i \|\phi_i\|^2 (\sum_c G_{cc} p_{ic} - p_i^\top G p_i)`.

    Raises:
        Unsupported: for another loss than cross-entropy, and where no linear layer gives the logits.
    """
    if not surface.classifies:
        raise Unsupported("the closed form is that of cross-entropy: with another loss name the layer")
    last = surface.last_layer()
    w, p = last.weight.double(), surface.clean().raw.double().softmax(1)
    if bool((p.amax(1) == 1).all()):
        raise Unsupported(SATURATED)
    # p' G p = |W' p|^2: no K x K matrix is made.
    curvature = p @ w.square().sum(1) - (p @ w).square().sum(1)
    value = float((last.features.double().square().sum(1) * curvature).mean())
    return Estimate(value) if math.isfinite(value) else Estimate(math.nan)


@torch.no_grad()
def of_a_layer(surface: LossSurface, layer: str, probes: int, rng: Streams) -> Estimate:
    r"""Return the mean of :math:`\langle WZ, H[WZ] \rangle` over random signs Z.

    Raises:
        Unsupported: where no module of this name has a weight, or none that is a matrix.
    """
    try:
        view = surface.restricted(f"{layer}.weight")
    except UserError as error:
        raise Unsupported(f"no layer '{layer}' with a weight: {error}") from error
    (name, _, shape, _), *more = view.layers
    if more or len(shape) < 2:
        what = "is a vector" if not more else "are several layers"
        raise Unsupported(
            f"'{layer}.weight' {what}: relative flatness is of one layer with neurons, the rows of a matrix"
        )
    w = view.w.view(shape[0], -1)
    samples = []
    for k in range(probes):
        v = (w @ rng.signs("signs", k, w.new_empty(w.shape[1], w.shape[1]))).reshape(-1)
        samples.append(float(torch.dot(v.double(), view.hvp(v).double())))
    if not all(map(math.isfinite, samples)):
        return Estimate(math.nan)
    if not any(samples) and bool(w.any()):
        raise Unsupported(SATURATED)
    return Estimate(*mean_and_error(samples), extras={"parameter": name})
