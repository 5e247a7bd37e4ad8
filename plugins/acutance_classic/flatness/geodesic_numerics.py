"""The search for the largest rise along geodesics, and which symmetries a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance.numerics.auto_pgd import auto_pgd
from acutance.numerics.balls import L2
from acutance.numerics.scalars import Scalar, scalar
from acutance.numerics.slopes import Slope
from acutance_classic.flatness.attention_pairs import Pair, pairs_of
from acutance_classic.flatness.quotient import Quotient, mixed
from acutance_classic.flatness.views import STILL, view_of

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_classic.flatness.geodesic import GeodesicSpec

INSIDE = 0.75  # how far towards the one-step point the search starts
SAME = {torch.float64: 1e-8, torch.float32: 1e-3}  # change of the logits under a mixing, relative to their norm
ABSENT = (
    "no attention is found whose query, key, value and output maps could be paired by their names and shapes: without "
    "these symmetries it is worst_case in the adaptive l2 ball"
)


def symmetric_pairs(view: LossSurface) -> list[Pair]:
    """Return the pairs whose mixing leaves the logits alone, of each kind all or none; a forward a kind.

    Raises:
        Unsupported: where there is none.
    """
    pairs, raw = pairs_of(view), view.clean().raw.double()
    kept: list[Pair] = []
    for kind in ("query_key", "value_output"):
        members = [pair for pair in pairs if pair.kind == kind]
        if members:
            change = view.raw_logits(mixed(view.w, members)).double() - raw
            limit = SAME[view.w.dtype] * float(torch.linalg.vector_norm(raw))
            kept += members if float(torch.linalg.vector_norm(change)) <= limit else []
    if not kept:
        raise Unsupported(ABSENT)
    return kept


class Geodesics:
    """The loss at the end of a geodesic, as a function of the coordinates of its velocity, (p,)."""

    def __init__(self, view: LossSurface, quotient: Quotient) -> None:
        self._view, self._quotient, self._point = view, quotient, view.moving_point()

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits."""
        evaluation = self._point.move(self._quotient.displacement(x)).value()
        return scalar(evaluation.loss), evaluation.note

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and the gradient in the coordinates."""
        with torch.enable_grad():
            gamma = x.detach().requires_grad_()
            delta = self._quotient.displacement(gamma)
        loss, raw, parts = self._point.move(delta.detach()).slope()
        return scalar(loss), raw, self._pulled(gamma, delta, torch.cat(parts))

    def origin(self) -> Slope:
        """Return the gradient in the coordinates at w*, from the one that all measures share."""
        with torch.enable_grad():
            gamma = torch.zeros_like(self._view.w).requires_grad_()
            delta = self._quotient.displacement(gamma)
        return self._pulled(gamma, delta, self._view.gradient()[1])

    @staticmethod
    def _pulled(gamma: Tensor, delta: Tensor, g: Tensor) -> Slope:
        return Slope(list(torch.autograd.grad(delta, gamma, g)))


@torch.no_grad()
def geodesic_sharpness(surface: LossSurface, spec: GeodesicSpec) -> Estimate:
    """Return the largest rise found from the one-step point and by Auto-PGD from within it."""
    view = view_of(surface, spec)
    g = view.gradient()[1]
    if not bool(g.any()):
        raise Unsupported(STILL)
    pairs = symmetric_pairs(view)
    objective, region = Geodesics(view, Quotient(view.w, pairs, spec.metric)), L2(spec.rho)
    start = region.steepest(objective.origin())
    clean, one_step = float(view.clean().loss), float(objective.value(start)[0])
    best = max(float(auto_pgd(objective, start.mul_(INSIDE), region, spec.steps).value), one_step, clean)
    kinds = {kind: float(sum(pair.kind == kind for pair in pairs)) for kind in ("query_key", "value_output")}
    extras = {"clean_loss": clean, "perturbed_loss": best, "one_step": one_step - clean}
    return Estimate(best - clean, extras=extras | {f"{kind}_pairs": n for kind, n in kinds.items()})
