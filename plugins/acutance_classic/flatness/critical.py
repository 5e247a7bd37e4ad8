"""The smallest step along the gradient that no longer lowers the loss (Kalra et al. 2026)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Need, Status, Traits
from acutance.spec import estimation, labelled
from acutance_classic.flatness.crossing import MOST, Crossing, narrowings
from acutance_classic.flatness.views import STILL, GradientMeasure, ViewSpec, view_of

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance.surface.moving_point import MovingPoint
    from acutance_classic.flatness.parabolas import Point

FIRST = 1 / 64  # of the step at which the linear model has lost the whole loss: small steps come first
RESOLVED = 16  # roundings of the loss that a fall has to exceed
HALF_WAY = 0.25, 0.75  # of the critical step: where a parabola has three quarters of its fall half-way, or more
PLATEAU = (
    "about half-way to the critical step the loss has moved by {fall:.1e}, within its rounding: a plateau, or no way "
    "down along this step; try dtype {finer}"
)

RANGE = (
    "the loss falls until numbers leave the range of {kind}, at {step:.2g} times the {source}: whether there is a "
    "critical step is not known; try dtype float32"
)


class CriticalSpec(ViewSpec):
    """Settings of critical sharpness."""

    direction: Annotated[Literal["gradient", "update"], labelled(adds=", along the {direction}")] = "gradient"
    """The step -d: along the gradient, or the optimizer's own where the pool has it, else along the gradient."""
    rtol: Annotated[float, Field(gt=0, lt=1), estimation()] = 1e-3
    """Relative width of the last bracket of the search."""


class CriticalSharpness(GradientMeasure[CriticalSpec]):
    r"""Two over the smallest step along d with which the loss rises.

    .. math:: \lambda_c = \frac{2}{\eta_c}, \qquad \eta_c = \min\{\eta > 0 : L_S(w - \eta\, d) > L_S(w)\}

    (Kalra et al. 2026); with ``direction: update`` -d is the optimizer's step, ``extras["direction"]`` says whether
    the pool has it, and the scale is that of the learning rate. In the quadratic model with d = g it is the
    directional sharpness :math:`g^\top H g / \|g\|^2`; forwards alone find it after one gradient, so that any
    attention kernel will do. The search (``Crossing``) climbs from a small step and narrows the bracket by parabolas,
    as a rule with fewer than ten losses; between the ends of the last bracket the mean slope
    :math:`(L_S(w - \eta d) - L_S(w)) / \eta` is taken for a straight line, which it is for a quadratic.
    """

    name, version = "critical_sharpness", 2  # 1 narrowed by bisection: within rtol the same
    traits = Traits(
        needs={"data", "gradient"}, invariant_to={"permutation", "translation"}, symbol="λ_c",
        label="critical sharpness", edge={"direction": "gradient", "logit_norm": False},
        reference="Kalra et al. 2026", bibtex=("kalra2026critical",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: CriticalSpec, rng: Streams) -> Estimate:
        """Return 2 over the critical step."""
        import torch

        view = view_of(surface, spec)
        with torch.no_grad():
            way = _way_of(view, spec)
            found = critical_sharpness(view, way, spec.rtol)
            return view.against_gradient_rounding(found) if way.source == "gradient" else found

    def needs(self, spec: CriticalSpec) -> frozenset[Need]:
        """The gradient, or the optimizer's step, which may be that too."""
        return frozenset({"data", spec.direction})

    def shares(self, spec: CriticalSpec) -> Literal["", "logits", "gradient"]:
        """The gradient; where the optimizer's step is known, the loss alone."""
        return "gradient" if spec.direction == "gradient" else ""

    def passes(self, spec: CriticalSpec) -> Cost:
        """The gradient; about four losses to a bracket, and those that narrow it."""
        return Cost(forwards=5 + narrowings(spec.rtol), backwards=1)


def direction_of(view: LossSurface, spec: CriticalSpec) -> tuple[Tensor, str]:
    """Return d, (p,), and where minus d is from: ``gradient``, or ``optimizer`` where the pool has its step."""
    if spec.direction == "gradient":
        return view.gradient()[1], "gradient"
    update = view.update()
    return -update.vector, update.source


@dataclass(frozen=True)
class Way:
    """The way -d from w*.

    Attributes:
        source: ``gradient``, whose first step follows from the loss, or ``optimizer``, whose step is of its size.
        squared: the square of d's l2 norm.
        slope: how fast the loss falls with eta at first, where that is known.
        walk: of a surface: goes to w* - eta d there, and returns the point.
        dithered: whether half-precision weights are rounded at random on it.
    """

    source: str
    squared: float
    slope: float | None
    walk: Callable[[LossSurface], Callable[[float], MovingPoint]]
    dithered: bool = False


def along(d: Tensor, source: str, slope: float | None = None) -> Way:
    """Return the way along minus a vector, (p,).

    Args:
        d: the vector.
        source: ``gradient`` or ``optimizer``.
        slope: of the loss, where it is known.
    """

    def walk(view: LossSurface) -> Callable[[float], MovingPoint]:
        point = view.moving_point()
        return lambda eta: point.move(d, -eta)

    return Way(source, float(d.double().square().sum()), slope, walk)


def _way_of(view: LossSurface, spec: CriticalSpec) -> Way:
    """Return the way that settings ask for; beside native weights it stays in parts."""
    step = view.update_apart() if spec.direction == "update" else None
    if step is None and not view.in_parts:
        d, source = direction_of(view, spec)
        return along(d, source, float(d.double().square().sum()) if source == "gradient" else None)
    if step is None:
        gradient = view.gradient_apart()

        def downhill(view: LossSurface) -> Callable[[float], MovingPoint]:
            point = view.piecewise_point()
            return lambda eta: point.place(gradient, -eta, view.dither)

        squared = gradient.norm() ** 2
        return Way("gradient", squared, squared, downhill, dithered=True)

    def walk(view: LossSurface) -> Callable[[float], MovingPoint]:
        point = view.piecewise_point()
        return lambda eta: point.place(step, eta, view.dither)

    return Way("optimizer", step.norm() ** 2, None, walk, dithered=True)


def critical_sharpness(view: LossSurface, way: Way, rtol: float) -> Estimate:
    """Return 2 over the smallest step along a way with which the loss rises.

    Args:
        view: the loss.
        way: from w*.
        rtol: relative width of the last bracket.

    Raises:
        Unsupported: without a direction, and where no step is found.
    """
    import torch

    clean, source = float(view.clean().loss), way.source
    if way.squared == 0:
        raise Unsupported(STILL)
    if not math.isfinite(way.squared + clean):
        return Estimate(math.nan)
    step = _critical_step(view, way, clean, rtol)
    if isinstance(step, Estimate):
        return step
    numbers = {"step": step.eta, "clean_loss": clean, "fall": step.fall, "evaluations": float(step.evaluations)}
    extras = {**numbers, "direction": source}
    eps = 0.0 if view.is_rounded else torch.finfo(view.dtype).eps
    if abs(step.fall) <= RESOLVED * eps * abs(clean):
        return Estimate.without_value(
            Status.NOT_CONVERGED, PLATEAU.format(fall=abs(step.fall), finer="float32" if view.is_rounded else "float64")
        )
    return view.against_rounding(Estimate(2 / step.eta, extras=extras), step.fall, way.dithered)


@dataclass(frozen=True)
class Step:
    """A critical step.

    Attributes:
        eta: its size.
        fall: of the loss at about half of it.
        evaluations: how many losses along the way it took.
    """

    eta: float
    fall: float
    evaluations: int


def _critical_step(view: LossSurface, way: Way, clean: float, rtol: float) -> Step | Estimate:
    """Return the critical step, or an estimate without a value; the weights that moved are let go with the search."""
    at, source = way.walk(view), way.source

    def rise(eta: float) -> float:
        return float(at(eta).value().loss) - clean

    first = FIRST * (abs(clean) or 1.0) / way.squared if source == "gradient" else FIRST
    # The mean slope is straight along a quadratic, and known at 0.
    search = Crossing(lambda eta: rise(eta) / eta, first, rtol, zero=None if way.slope is None else -way.slope)
    eta = search.find()
    if eta is None:
        what = "rises with none of the" if search.high is None else "rises with each of the"
        raise Unsupported(
            f"the loss {what} {MOST} steps tried, {search.steps[0]:.2g} to {search.steps[-1]:.2g} times the "
            f"{source}: there is no critical step, or the loss is flat within its rounding (try dtype float64)"
        )
    if view.is_rounded and search.high is not None and not math.isfinite(search.high[1]):
        kind = str(view.dtype).removeprefix("torch.")
        return Estimate.without_value(Status.NOT_CONVERGED, RANGE.format(kind=kind, step=search.high[0], source=source))
    fall, more = _fall(eta, search.points, rise)
    return Step(eta, fall, len(search.steps) + more)


def _fall(eta: float, points: list[Point], rise: Callable[[float], float]) -> tuple[float, int]:
    """Return how far the loss has fallen at about half of a step, and how many losses that took beside the points."""
    known = [
        (abs(step / eta - 0.5), -slope * step) for step, slope in points if HALF_WAY[0] <= step / eta <= HALF_WAY[1]
    ]
    return (min(known)[1], 0) if known else (-rise(eta / 2), 1)
