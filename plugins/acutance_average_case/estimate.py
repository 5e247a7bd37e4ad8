"""The sweep over draws that serves all radii, scalings and loss transforms at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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

    parameters: str
    norm: str
    scaling: str
    rho: float


@torch.no_grad()
def average_rise(surface: LossSurface, specs: Sequence[AverageCaseSpec], rng: Streams) -> list[Estimate]:
    """Return the average-case sharpness of every spec.

    Draw k is made once for each norm and serves every radius and scaling; each perturbed forward serves the
    plain and the normalized loss.
    """
    points: dict[Point, list[int]] = defaultdict(list)
    for i, spec in enumerate(specs):
        points[Point(spec.parameters, spec.norm, spec.scaling, spec.rho)].append(i)
    views = [surface.restricted(s.parameters).transformed(s.logit_norm, s.norm_scale) for s in specs]
    before = surface.cost
    clean = [view.clean() for view in views]
    clean_cost = surface.cost - before
    clean_error = surface.mean_error_of(clean[0].raw)

    losses: list[list[Tensor]] = [[] for _ in specs]
    errors: list[list[Tensor]] = [[] for _ in specs]
    costs = [clean_cost * (1 / len(specs)) for _ in specs]
    for parameters in dict.fromkeys(point.parameters for point in points):
        base = surface.restricted(parameters)
        here = {point: members for point, members in points.items() if point.parameters == parameters}
        units = {p.scaling: scaling.vector(base, p.scaling) for p in here}
        moved = torch.empty_like(base.w)
        for norm in dict.fromkeys(point.norm for point in here):
            draw = rng.normal if norm == "l2" else rng.uniform
            sharing = {point: members for point, members in here.items() if point.norm == norm}
            for k in range(max(specs[i].draws for members in sharing.values() for i in members)):
                noise = draw(norm, k, base.w)
                for point, members in sharing.items():
                    active = [i for i in members if k < specs[i].draws]
                    if not active:
                        continue
                    c = units[point.scaling]
                    if c is None:
                        torch.add(base.w, noise, alpha=point.rho, out=moved)
                    else:
                        torch.addcmul(base.w, c, noise, value=point.rho, out=moved)
                    before = surface.cost
                    raw = base.raw_logits(moved)
                    share = (surface.cost - before) * (1 / len(active))
                    error = base.mean_error_of(raw)
                    for i in active:
                        losses[i].append(views[i].loss_of(raw))
                        errors[i].append(error)
                        costs[i] = costs[i] + share
    return [
        _estimate(torch.stack(losses[i]), torch.stack(errors[i]), clean[i].loss, clean_error, costs[i])
        for i in range(len(specs))
    ]


def _estimate(losses: Tensor, errors: Tensor, clean: Tensor, clean_error: Tensor, cost: Cost) -> Estimate:
    """Mean rise over the draws, with its standard error when there are at least two."""
    rise = losses - clean
    n = len(rise)
    stderr = float(rise.std() / n**0.5) if n > 1 else None
    extras = {"clean_loss": float(clean), "perturbed_loss": float(losses.mean()), "draws": n}
    if not torch.isnan(clean_error):
        extras |= {"clean_error": float(clean_error), "perturbed_error": float(errors.mean())}
    return Estimate(float(rise.mean()), stderr, extras=extras, cost=cost)
