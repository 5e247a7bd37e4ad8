"""The sweep over draws that serves all radii, scalings and loss transforms at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from acutance import scaling
from acutance.measure import Cost, Estimate
from acutance.numerics.draws import Kind, Noise, Streams
from acutance.numerics.slopes import scaled
from acutance.numerics.units import Units

if TYPE_CHECKING:
    from acutance.scaling import PieceUnits
    from acutance.surface import LossSurface
    from acutance.surface.many_points import ManyPoints
    from acutance.surface.moving_point import MovingPoint
    from acutance_average_case.measure import AverageCaseSpec


class Point(NamedTuple):
    """What decides where the loss is evaluated; specs that agree on it share their forwards."""

    scaling: str
    rho: float


@dataclass
class Sample:
    """What one spec collects: losses and errors at its perturbed points, and the control variate there."""

    spec: AverageCaseSpec
    view: LossSurface
    cost: Cost
    losses: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    controls: list[Tensor] = field(default_factory=list)
    slope: Tensor | None = None

    @property
    def signs(self) -> tuple[int, ...]:
        """With which signs a noise is taken."""
        return (1, -1) if self.spec.variance_reduction == "antithetic" else (1,)

    @property
    def noises(self) -> int:
        """How many noises the draws are made of."""
        return self.spec.draws // len(self.signs)


@torch.no_grad()
def average_rise(surface: LossSurface, specs: Sequence[AverageCaseSpec], rng: Streams) -> list[Estimate]:
    """Return the average-case sharpness of every spec.

    Draw k is made once for each norm and serves every radius and scaling; each perturbed forward serves the
    plain and the normalized loss, whatever is done about the variance.
    """
    before = surface.cost
    views = [surface.restricted(s.parameters).transformed(s.logit_norm, s.norm_scale) for s in specs]
    for view, spec in zip(views, specs, strict=True):
        if spec.variance_reduction == "linear":
            view.clean_gradient()  # gives the clean loss too
    surface.clean_together(views)
    shared = (surface.cost - before) * (1 / len(specs))
    samples = [Sample(spec, view, shared) for spec, view in zip(specs, views, strict=True)]
    families: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        families[sample.spec.parameters, sample.spec.norm].append(sample)
    for (parameters, norm), family in families.items():
        _sweep(surface.restricted(parameters), norm, family, rng)
    return [_estimate(sample) for sample in samples]


def _sweep(base: LossSurface, norm: str, family: Sequence[Sample], rng: Streams) -> None:
    """Walk over the noises once for all specs of one norm and one set of free parameters."""
    points: dict[Point, list[Sample]] = defaultdict(list)
    for sample in family:
        points[Point(sample.spec.scaling, sample.spec.rho)].append(sample)
    count = max(sample.noises for sample in family)
    kind: Kind = "normal" if norm == "l2" else "uniform"
    made = (rng.noise(kind, norm, k, base.size) for k in range(count))
    if base.moves_in_place and not any(sample.spec.variance_reduction == "linear" for sample in family):
        _visit_all(
            _in_pieces(base, {point.scaling: scaling.units(base, point.scaling) for point in points}), points, made
        )
        return
    for sample in family:
        if sample.spec.variance_reduction == "linear":
            sample.slope = _slope(sample.view, sample.spec.scaling, scaling.by_block(base, sample.spec.scaling))
    visits = sum(
        max((s.noises for s in members if sign in s.signs), default=0)
        for members in points.values()
        for sign in (1, -1)
    )
    rows, names = base.many_points(visits), {point.scaling for point in points}
    if rows is not None:
        walk: OneByOne[Tensor] | ManyAtOnce = ManyAtOnce(base, names, rows)
    else:
        point, alone = base.moving_point(), visits == count and all(sample.slope is None for sample in family)
        units = {name: point.in_units(scaling.by_block(base, name)) for name in names}
        if alone and point.takes_blocks:
            _visit_all(OneByOne(base, point, {name: there.move_along for name, there in units.items()}), points, made)
            return
        walk = OneByOne(base, point, {name: there.move for name, there in units.items()})
    with walk:
        noises = rng.draws(kind, norm, range(count), base.w, out=torch.empty_like(base.w))
        for k, noise in enumerate(noises):
            _record_controls([sample for sample in family if k < sample.noises], noise)
            _visit(walk, points, noise, k)


def _visit_all(walk: OneByOne[Noise], points: Mapping[Point, Sequence[Sample]], noises: Iterable[Noise]) -> None:
    """Visit the points of all draws."""
    with walk:
        for k, noise in enumerate(noises):
            _visit(walk, points, noise, k)


def _visit(walk: Walk[N], points: Mapping[Point, Sequence[Sample]], noise: N, k: int) -> None:
    """Visit the points of draw k, for the specs that still take draws."""
    for point, members in points.items():
        for sign in (1, -1):
            active = [sample for sample in members if k < sample.noises and sign in sample.signs]
            if active:
                walk.visit(noise, point.scaling, sign * point.rho, active)


def _slope(view: LossSurface, scaling_name: str, c: Tensor | Units | None) -> Tensor:
    """Return c * gradient at w*, (p,): one tensor for all radii."""

    def compute() -> Tensor:
        g = view.clean_gradient().gradient
        assert g is not None
        return g if c is None else scaled(g, c)

    return view.memo(("average_case.slope", scaling_name), compute)


def _record_controls(active: Sequence[Sample], noise: Tensor) -> None:
    """Note <c * gradient, noise> for every spec that uses it; specs that share the slope share the product."""
    products: dict[int, Tensor] = {}
    for sample in active:
        if sample.slope is not None:
            name = id(sample.slope)
            if name not in products:
                products[name] = torch.dot(sample.slope, noise).double()
            sample.controls.append(products[name])


N = TypeVar("N", contravariant=True)


class Walk(Protocol[N]):
    """Evaluates the points of a sweep, and hands what was found there to the specs that share them."""

    def visit(self, noise: N, unit: str, scale: float, active: Sequence[Sample]) -> None:
        """Make the one forward at w* + scale c noise that these specs share, at once or before the walk ends."""
        ...


class OneByOne(Generic[N]):
    """A pass for each point, which moves in place.

    Args:
        base: whose points.
        point: what moves.
        go: for each scaling, how it goes to w* + s c noise.
    """

    def __init__(
        self, base: LossSurface, point: MovingPoint, go: Mapping[str, Callable[[N, float], MovingPoint]]
    ) -> None:
        self._base, self._go, self._held = base, go, point.held()

    def __enter__(self) -> OneByOne[N]:
        self._held.__enter__()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._held.__exit__(kind, *error)

    def visit(self, noise: N, unit: str, scale: float, active: Sequence[Sample]) -> None:
        """Make the forward now."""
        _pass(self._base, self._go[unit](noise, scale), active)


def _in_pieces(base: LossSurface, units: Mapping[str, PieceUnits | None]) -> OneByOne[Noise]:
    """Return a walk whose noise is made again for each point where the weights move: no vector is held."""
    point = base.piecewise_point()
    return OneByOne(base, point, {name: point.with_units(c).place for name, c in units.items()})


def _pass(base: LossSurface, point: MovingPoint, active: Sequence[Sample]) -> None:
    """Make a forward at a point, and hand losses, the error and the cost to the specs that share it."""
    before = base.cost
    views = list({id(sample.view): sample.view for sample in active}.values())
    seen = point.seen_by(views)
    losses = {id(view): loss for view, loss in zip(views, seen.losses, strict=True)}
    share = (base.cost - before) * (1 / len(active))
    error = base.mean_error_noted(seen.note)
    for sample in active:
        sample.losses.append(losses[id(sample.view)])
        sample.errors.append(error)
        sample.cost = sample.cost + share


class ManyAtOnce:
    """A pass for many points of a tiny model, made when they are enough and at the end."""

    def __init__(self, base: LossSurface, names: Collection[str], points: ManyPoints) -> None:
        self._base, self._points = base, points
        self._units = {name: scaling.vector(base, name) for name in names}
        self._waiting: list[Sequence[Sample]] = []

    def __enter__(self) -> ManyAtOnce:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._pass()

    def visit(self, noise: Tensor, unit: str, scale: float, active: Sequence[Sample]) -> None:
        """Note the point."""
        self._points.place(len(self._waiting), noise, self._units[unit], scale)
        self._waiting.append(active)
        if len(self._waiting) == len(self._points.rows):
            self._pass()

    def _pass(self) -> None:
        """Make one pass over all points that wait, and hand losses, errors and cost to the specs that share them."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        before = self._base.cost
        raw = self._points.raw_logits(len(waiting))
        forward = (self._base.cost - before) * (1 / len(waiting))
        errors = self._base.mean_errors_at(raw).unbind()
        for row, active in enumerate(waiting):
            share = forward * (1 / len(active))
            for sample in active:
                sample.errors.append(errors[row])
                sample.cost = sample.cost + share
        for view in {id(sample.view): sample.view for active in waiting for sample in active}.values():
            by_row = [[sample for sample in active if sample.view is view] for active in waiting]
            rows = [row for row, samples in enumerate(by_row) if samples]
            losses = view.losses_at(raw if len(rows) == len(raw) else raw[rows])
            for row, loss in zip(rows, losses.unbind(), strict=True):
                for sample in by_row[row]:
                    sample.losses.append(loss)


def _estimate(sample: Sample) -> Estimate:
    """Mean rise over the draws, with its standard error when enough of them are independent."""
    clean = sample.view.clean()
    losses, errors = torch.stack(sample.losses), torch.stack(sample.errors)
    rise = losses - clean.loss
    extras = {"clean_loss": float(clean.loss), "perturbed_loss": float(losses.mean()), "draws": len(losses)}
    clean_error = sample.view.mean_error_noted(clean.note)
    if not torch.isnan(clean_error):
        extras |= {"clean_error": float(clean_error), "perturbed_error": float(errors.mean())}
    if sample.spec.variance_reduction == "linear":
        value, stderr, extras["coefficient"], extras["variance_ratio"] = _controlled(rise, torch.stack(sample.controls))
    else:
        if sample.spec.variance_reduction == "antithetic":
            rise = rise.view(-1, 2).mean(dim=1)
        value, stderr = float(rise.mean()), _standard_error(rise, 1)
    estimate = Estimate(value, stderr, extras=extras, cost=sample.cost)
    estimate = scaling.resolved(estimate, sample.view, sample.spec.scaling, sample.spec.rho)
    return sample.view.against_rounding(estimate, value)


def _controlled(rise: Tensor, control: Tensor) -> tuple[float, float | None, float, float]:
    r"""Return the mean of rise - beta control, its standard error, beta, and the share of variance left.

    The control has mean zero. :math:`\beta = \mathrm{cov}(r, h) / \mathrm{var}(h)` is fitted: fixed at the radius, it
    can add variance once the loss is no longer linear in the ball.
    """
    h, r = control - control.mean(), rise - rise.mean()
    variance = torch.dot(h, h)
    beta = torch.dot(r, h) / variance if variance > 0 else torch.zeros_like(variance)
    residual = rise - beta * control
    remaining = float(residual.var() / rise.var()) if rise.var() > 0 else 1.0
    return float(residual.mean()), _standard_error(residual, 2), float(beta), remaining


def _standard_error(values: Tensor, fitted: int) -> float | None:
    """Return the standard error of a mean after so many fitted numbers; None where none are left over."""
    n = len(values)
    if n <= fitted:
        return None
    squares = (values - values.mean()).square().sum()
    return float((squares / (n - fitted) / n).sqrt())
