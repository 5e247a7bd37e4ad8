"""Steps uphill, boxes, and how far a rise is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance.numerics.auto_pgd import Objective, auto_pgd
from acutance.numerics.balls import L2, ball
from acutance.numerics.scalars import Scalar, scalar
from acutance.numerics.slopes import Slope
from acutance_classic.flatness.crossing import MOST, Crossing
from acutance_classic.flatness.views import STILL, view_of

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance.surface.perturbed import Perturbed
    from acutance_classic.flatness.one_step import EpsFlatnessSpec, KeskarSpec, SamSpec

INSIDE = 0.75  # how far towards a corner a search starts: on the boundary the gradient pins every coordinate at once


@torch.no_grad()
def one_step_rise(surface: LossSurface, spec: SamSpec) -> Estimate:
    """Return the rise of the loss at w + rho c^2 g / ||c g||."""
    view = view_of(surface, spec)
    if view.in_parts:
        return _rise_in_parts(view, spec)
    objective, region = view.perturbed(scaling.vector(view, spec.scaling)), L2(spec.rho)
    gamma = region.steepest(objective.origin()[2])
    if float(region.norm(gamma)) == 0:
        raise Unsupported(STILL)
    clean, perturbed = float(view.clean().loss), float(objective.value(gamma)[0])
    estimate = Estimate(perturbed - clean, extras={"clean_loss": clean, "perturbed_loss": perturbed})
    return scaling.resolved(estimate, view, spec.scaling, spec.rho)


def _rise_in_parts(view: LossSurface, spec: SamSpec) -> Estimate:
    """Return the same of native weights: a gradient in parts, and the weights that it moves."""
    units = scaling.units(view, spec.scaling)
    slope = view.gradient_apart(units)
    length = slope.norm()
    if length == 0:
        raise Unsupported(STILL)
    clean = float(view.clean().loss)
    # The weights that moved are let go: what rounding does is looked for in memory of that size.
    perturbed = float(view.piecewise_point(units).place(slope, spec.rho / length, view.dither).value().loss)
    estimate = Estimate(perturbed - clean, extras={"clean_loss": clean, "perturbed_loss": perturbed})
    estimate = view.against_rounding(estimate, perturbed - clean, dithered=True)
    return view.against_gradient_rounding(estimate, units)


class Subspace:
    r"""The loss as a function of coordinates in a subspace, :math:`F(\gamma) = L_S(w^* + A\,(u \odot \gamma))`.

    Args:
        view: the surface.
        directions: (k, p), the columns of A.

    Attributes:
        units: (k,), u = |A⁺ w| + 1.
    """

    def __init__(self, view: LossSurface, directions: Tensor) -> None:
        self._view, self._directions, self._point = view, directions, view.moving_point()
        gram, onto = (directions @ directions.T).double(), (directions @ view.w).double()
        self.units = (torch.linalg.solve(gram, onto).abs() + 1).to(view.w)

    def _at(self, x: Tensor) -> Tensor:
        displacement: Tensor = (self.units * x) @ self._directions
        return displacement

    def _slope(self, g: Tensor) -> Slope:
        return Slope([self._directions @ g], self.units)

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits at coordinates x, (k,)."""
        evaluation = self._point.move(self._at(x)).value()
        return scalar(evaluation.loss), evaluation.note

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and the gradient in the coordinates, (k,)."""
        loss, raw, parts = self._point.move(self._at(x)).slope()
        return scalar(loss), raw, self._slope(torch.cat(parts))

    def origin(self) -> tuple[Scalar, Tensor, Slope]:
        """Return the same at w*."""
        loss, g = self._view.gradient()
        return scalar(loss), self._view.clean().note, self._slope(g)


def random_directions(k: int, w: Tensor, rng: Streams) -> Tensor:
    """Return k directions uniform on the unit sphere, (k, p).

    Raises:
        Unsupported: for more directions than weights.
    """
    if k > w.numel():
        raise Unsupported(f"{w.numel()} weights span no {k} directions: take a smaller subspace, or 0 for all weights")
    directions = w.new_empty(k, w.numel())
    for i in range(k):
        row = rng.normal("directions", i, w, out=directions[i])
        row.div_(row.norm())
    return directions


@torch.no_grad()
def box_sharpness(surface: LossSurface, spec: KeskarSpec, rng: Streams) -> Estimate:
    """Return 100 (max f - f) / (1 + f) over the box."""
    view, region = view_of(surface, spec), ball("linf", spec.eps)
    objective: Subspace | Perturbed = (
        Subspace(view, random_directions(spec.subspace, view.w, rng)) if spec.subspace
        else view.perturbed(view.w.abs() + 1)
    )  # fmt: skip
    corner = region.steepest(objective.origin()[2])
    inside = region.random(rng.uniform("start", 0, corner), rng.number("start.radius", 0))
    clean = float(view.clean().loss)
    if clean <= -1:
        raise Unsupported(f"the loss is {clean:.3g}: relative to 1 + f it is defined for f > -1 only")
    at_corner, at_random = (_rank(objective, x) for x in (corner, inside))
    start = corner.mul_(INSIDE) if at_corner >= at_random else inside
    found = float(auto_pgd(objective, start, region, spec.steps).value)
    best = max(found, at_corner, at_random, clean) if math.isfinite(clean) else math.nan
    return Estimate(100 * (best - clean) / (1 + clean), extras={"clean_loss": clean, "perturbed_loss": best})


def _rank(objective: Objective, x: Tensor) -> float:
    """Return the loss at x; NaN is never the best."""
    value = float(objective.value(x)[0])
    return -math.inf if math.isnan(value) else value


@torch.no_grad()
def inverse_distance(surface: LossSurface, spec: EpsFlatnessSpec) -> Estimate:
    """Return 1 / ||t g|| where the loss along the gradient has risen by eps."""
    view = view_of(surface, spec)
    g = view.gradient()[1]
    squared, clean, point = float(g.double().square().sum()), float(view.clean().loss), view.moving_point()
    if squared == 0:
        raise Unsupported(STILL)
    if not math.isfinite(squared + clean):
        return Estimate(math.nan)

    def excess(t: float) -> float:
        return float(point.move(g, t).value().loss) - clean - spec.eps

    # The step of the linear model: too far where the loss is convex.
    search = Crossing(excess, spec.eps / squared, spec.rtol, zero=-spec.eps, slope=squared)
    t = search.find()
    if t is None:
        side = "stays below" if search.high is None else "is above"
        raise Unsupported(
            f"along the gradient the loss {side} a rise of {spec.eps:g} at all {MOST} steps tried, from "
            f"{search.steps[0]:.2g} to {search.steps[-1]:.2g} times the gradient: take another eps"
        )
    extras = {"distance": t * math.sqrt(squared), "clean_loss": clean, "evaluations": float(len(search.steps))}
    return Estimate(1 / extras["distance"], extras=extras)
