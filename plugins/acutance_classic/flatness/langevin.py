r"""Langevin dynamics around w*, and the mean gradient under it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.measure import Estimate, Status
from acutance.numerics.traces import mean_and_error
from acutance_classic.flatness.averages_numerics import log_likelihood_scale
from acutance_classic.flatness.views import view_of

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.flatness.entropy_gradient import EntropyGradientSpec

BURNED = 5  # one of so many steps is left out at the start of a chain
BATCHES = 4  # means whose spread gives the error of a chain: its steps depend on each other
AGREEMENT = 0.5  # cosine between the means of two chains below which noise decides


def gradients(view: LossSurface, spec: EntropyGradientSpec, rng: Streams, chain: int) -> Iterator[Tensor]:
    r"""Yield n grad L, (p,), along a chain.

    .. math:: x \leftarrow x - \eta\, (n \nabla L(w + x) + \gamma x) + \sqrt{2 \eta}\, \xi

    It starts at a draw of the spring alone, N(0, 1/gamma); the first steps are not handed out.
    """
    point, n, eta, steps = view.moving_point(), log_likelihood_scale(view), spec.step / spec.gamma, spec.steps // 2
    x = rng.normal(f"start.{chain}", 0, view.w).div_(math.sqrt(spec.gamma))
    noise = torch.empty_like(x)
    for k in range(steps):
        found = point.move(x).gradient()
        g = found.gradient
        assert g is not None
        g.mul_(n).add_(found.loss - found.loss)  # NaN where the loss is no number, though no output has a gradient
        if k >= steps // BURNED:
            yield g
        rng.normal(f"noise.{chain}", k, x, out=noise)
        x.mul_(1 - spec.step).sub_(g, alpha=eta).add_(noise, alpha=math.sqrt(2 * eta))


@torch.no_grad()
def entropy_gradient(surface: LossSurface, spec: EntropyGradientSpec, rng: Streams) -> Estimate:
    """Return the root of the inner product of the mean gradients of two chains."""
    view = view_of(surface, spec)
    first, second = torch.zeros_like(view.w), torch.zeros_like(view.w)
    for g in gradients(view, spec, rng, 0):
        first.add_(g)
    along = []  # <first, g> along the second chain: its spread is the error of the inner product
    for g in gradients(view, spec, rng, 1):
        second.add_(g)
        along.append(float(torch.dot(first.double(), g.double())))
    kept = len(along)
    product = math.fsum(along) / kept**2
    norms = [float(torch.linalg.vector_norm(v, dtype=torch.float64)) / kept for v in (first, second)]
    if not math.isfinite(product + sum(norms)):
        return Estimate.without_value(Status.NONFINITE, "the chain left the range of numbers: take a smaller step")
    if product <= 0 or product < AGREEMENT * norms[0] * norms[1]:
        message = (
            f"the mean gradients of two chains, {norms[0]:.3g} and {norms[1]:.3g} long, point different ways (inner "
            f"product {product:.2g}): raise steps, or take a smaller step"
        )
        return Estimate.without_value(Status.NOT_CONVERGED, message) if norms[0] else Estimate(0.0)
    size = kept // BATCHES
    means = [math.fsum(along[b * size : (b + 1) * size]) / size / kept for b in range(BATCHES)]
    # Both chains have the same error; that of a root is half the relative one.
    stderr = math.sqrt(2) * float(mean_and_error(means)[1] or 0) / (2 * math.sqrt(product))
    stderr = max(stderr, abs(norms[0] - norms[1]) / 2)  # few batches may agree by chance, as two chains may
    return Estimate(math.sqrt(product), stderr, extras={"agreement": product / (norms[0] * norms[1])})
