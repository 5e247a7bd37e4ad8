"""The sweep over draws that serves all radii, scalings and loss transforms at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from acutance import scaling
from acutance.measure import Cost, Estimate
from acutance.numerics.draws import Streams
from acutance.surface import LossSurface

if TYPE_CHECKING:
    from acutance_average_case.plugin import AverageCaseSpec


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

    def wants(self, k: int, sign: int) -> bool:
        """Whether noise k with this sign is one of the spec's draws: antithetic ones take every noise twice."""
        if self.spec.variance_reduction == "antithetic":
            return 2 * k < self.spec.draws
        return sign > 0 and k < self.spec.draws


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
    for view in views:
        view.clean()
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
    draw = rng.normal if norm == "l2" else rng.uniform
    points: dict[Point, list[Sample]] = defaultdict(list)
    for sample in family:
        points[Point(sample.spec.scaling, sample.spec.rho)].append(sample)
    units = {point.scaling: scaling.vector(base, point.scaling) for point in points}
    slopes = [(sample, slope) for sample in family if (slope := _slope(sample, units)) is not None]
    moved = torch.empty_like(base.w)
    for k in range(max(sample.spec.draws for sample in family)):
        if not any(sample.wants(k, 1) for sample in family):
            break  # antithetic specs need only half as many noises
        noise = draw(norm, k, base.w)
        for sample, control in _controls(slopes, noise, k):
            sample.controls.append(control)
        for point, members in points.items():
            for sign in (1, -1):
                active = [sample for sample in members if sample.wants(k, sign)]
                if active:
                    _perturb(base.w, units[point.scaling], noise, sign * point.rho, moved)
                    _collect(base, moved, active)


def _slope(sample: Sample, units: dict[str, Tensor | None]) -> tuple[int, Tensor] | None:
    """Return c * gradient, (p,), of a spec with a control variate, with a name under which radii share it."""
    if sample.spec.variance_reduction != "linear":
        return None
    c = units[sample.spec.scaling]

    def compute() -> Tensor:
        g = sample.view.gradient()[1]
        return g if c is None else g.mul_(c)

    slope = sample.view.memo(("average_case.slope", sample.spec.scaling), compute)
    return id(slope), slope


def _controls(
    slopes: Sequence[tuple[Sample, tuple[int, Tensor]]], noise: Tensor, k: int
) -> Iterator[tuple[Sample, Tensor]]:
    """Yield <c * gradient, noise> for every spec that uses it, computed once for all radii."""
    found: dict[int, Tensor] = {}
    for sample, (name, slope) in slopes:
        if sample.wants(k, 1):
            if name not in found:
                found[name] = torch.dot(slope, noise)
            yield sample, found[name].double()


def _perturb(w: Tensor, c: Tensor | None, noise: Tensor, rho: float, out: Tensor) -> None:
    """Write w + rho c noise, (p,)."""
    if c is None:
        torch.add(w, noise, alpha=rho, out=out)
    else:
        torch.addcmul(w, c, noise, value=rho, out=out)


def _collect(base: LossSurface, moved: Tensor, active: Sequence[Sample]) -> None:
    """Make the one forward at a point that all these specs share."""
    before = base.cost
    raw = base.raw_logits(moved)
    share = (base.cost - before) * (1 / len(active))
    error = base.mean_error_of(raw)
    for sample in active:
        sample.losses.append(sample.view.loss_of(raw))
        sample.errors.append(error)
        sample.cost = sample.cost + share


def _estimate(sample: Sample) -> Estimate:
    """Mean rise over the draws, with its standard error when enough of them are independent."""
    clean = sample.view.clean()
    losses, errors = torch.stack(sample.losses), torch.stack(sample.errors)
    rise = losses - clean.loss
    extras = {"clean_loss": float(clean.loss), "perturbed_loss": float(losses.mean()), "draws": len(losses)}
    clean_error = sample.view.mean_error_of(clean.raw)
    if not torch.isnan(clean_error):
        extras |= {"clean_error": float(clean_error), "perturbed_error": float(errors.mean())}
    if sample.spec.variance_reduction == "linear":
        value, stderr, extras["coefficient"], extras["variance_ratio"] = _controlled(rise, torch.stack(sample.controls))
    else:
        if sample.spec.variance_reduction == "antithetic":
            rise = rise.view(-1, 2).mean(dim=1)
        value, stderr = float(rise.mean()), _standard_error(rise, 1)
    return Estimate(value, stderr, extras=extras, cost=sample.cost)


def _controlled(rise: Tensor, control: Tensor) -> tuple[float, float | None, float, float]:
    r"""Return the mean of rise - beta control, its standard error, beta, and the share of variance left.

    The control has mean zero. :math:`\beta = \mathrm{cov}(r, h) / \mathrm{var}(h)` is fitted: fixed at the radius, it
    can add variance once the loss is no longer linear in the ball.
    """
    h, r = control - control.mean(), rise - rise.mean()
    variance = torch.dot(h, h)
    beta = torch.dot(r, h) / variance if variance > 0 else torch.zeros_like(variance)
    residual = rise - beta * control
    left = float(residual.var() / rise.var()) if rise.var() > 0 else 1.0
    return float(residual.mean()), _standard_error(residual, 2), float(beta), left


def _standard_error(values: Tensor, fitted: int) -> float | None:
    """Return the standard error of a mean after so many fitted numbers; None where none are left over."""
    n = len(values)
    if n <= fitted:
        return None
    squares = (values - values.mean()).square().sum()
    return float((squares / (n - fitted) / n).sqrt())
