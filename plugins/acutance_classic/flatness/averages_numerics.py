"""The walk over noise that serves all settings of an average, and what is made of the losses found there."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance.numerics.traces import mean_and_error
from acutance_classic.flatness.views import view_of

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance.surface.moving_point import MovingPoint

LEAST = 10  # effective draws of a mean of exponentials
Point = tuple[str, float]  # scaling and standard deviation: where the draws fall
Record = Callable[[Point, int, "MovingPoint | Tensor"], None]


def scale_of(spec: Any) -> float:
    """Return the standard deviation of the noise, in units of c."""
    return float(spec.sigma) if hasattr(spec, "sigma") else 1 / math.sqrt(spec.gamma)


def log_likelihood_scale(surface: LossSurface) -> float:
    """Return by what the loss is multiplied to be a sum over the points: n, or 1 where it is a sum already."""
    return 1.0 if str(surface.criterion).endswith("squared_sum") else float(surface.n)


@torch.no_grad()
def averages(name: str, surface: LossSurface, specs: Sequence[Any], rng: Streams) -> list[Estimate]:
    """Return the average of every spec; where draws fall on the same points they share the forwards."""
    of_loss, summary = name in LOSSES, SUMMARIES[name]
    seen = [view_of(surface, s) if hasattr(s, "logit_norm") else surface.restricted(s.parameters) for s in specs]
    found: list[list[Tensor]] = [[] for _ in specs]
    for pattern in dict.fromkeys(spec.parameters for spec in specs):
        chosen: dict[Point, list[int]] = defaultdict(list)
        for i, spec in enumerate(specs):
            if spec.parameters == pattern:
                chosen[getattr(spec, "scaling", "none"), scale_of(spec)].append(i)

        def record(point: Point, k: int, there: MovingPoint | Tensor, chosen: dict[Point, list[int]] = chosen) -> None:
            members = [i for i in chosen[point] if k < specs[i].draws]
            views = [seen[i] for i in members]
            if isinstance(there, Tensor):
                losses, note = [view.loss_of(there) for view in views if of_loss], there
            else:
                passed = there.seen_by(views if of_loss else [])
                losses, note = passed.losses, passed.note
            for i, value in zip(members, losses if of_loss else [error_of(view, note) for view in views], strict=True):
                found[i].append(value)

        draws = {point: max(specs[i].draws for i in members) for point, members in chosen.items()}
        walk(surface.restricted(pattern), draws, rng, record)
    return [
        summary(view, spec, torch.stack(values).double()) for view, spec, values in zip(seen, specs, found, strict=True)
    ]


def walk(base: LossSurface, draws: dict[Point, int], rng: Streams, record: Record) -> None:
    """Go to w + sigma c z_k for every point and each of its draws k: hand over the point, or its raw logits, (n, K)."""
    units = {name: scaling.vector(base, name) for name, _ in draws}
    visits = [(point, k) for k in range(max(draws.values())) for point, most in draws.items() if k < most]
    rows, moving = base.many_points(len(visits)), base.moving_point()
    noise, last, waiting = torch.empty_like(base.w), -1, list[tuple[Point, int]]()

    def hand_over() -> None:
        if waiting and rows is not None:
            for (point, k), raw in zip(waiting, rows.raw_logits(len(waiting)), strict=True):
                record(point, k, raw)
        waiting.clear()

    with moving.held() if rows is None else nullcontext():
        for point, k in visits:
            if k != last:
                rng.normal("noise", k, base.w, out=noise)
                last = k
            c, sigma = units[point[0]], point[1]
            if rows is None:
                record(point, k, moving.in_units(c).move(noise, sigma))
                continue
            rows.place(len(waiting), noise, c, sigma)
            waiting.append((point, k))
            if len(waiting) == len(rows.rows):
                hand_over()
        hand_over()


def mean_loss(view: LossSurface, spec: Any, losses: Tensor) -> Estimate:
    """Return the mean of the losses, (draws,)."""
    if not bool(losses.isfinite().all()):
        return Estimate(math.nan)
    value, stderr = mean_and_error(losses.tolist())
    return Estimate(value, stderr)


def entropy(view: LossSurface, spec: Any, losses: Tensor) -> Estimate:
    r"""Return :math:`\log \frac1k \sum_i e^{-n L_i} + \frac{d}{2} \log \frac{2\pi}{\gamma}` of losses, (draws,)."""
    if bool(losses.isnan().any()):
        return Estimate(math.nan)
    exponents = -log_likelihood_scale(view) * losses
    log_mean = float(torch.logsumexp(exponents, 0)) - math.log(len(losses))
    if not math.isfinite(log_mean):
        return Estimate(math.nan)
    shares = torch.softmax(exponents, 0)
    effective = float(1 / shares.square().sum())
    # Of the log of a mean: the relative error of the mean.
    stderr = mean_and_error((shares * len(shares)).tolist())[1]
    value = log_mean + view.w.numel() / 2 * math.log(2 * math.pi / spec.gamma)
    extras = {"log_mean": log_mean, "effective_draws": effective}
    if effective >= LEAST:
        return Estimate(value, stderr, extras=extras)
    message = (
        f"{effective:.1f} of {len(losses)} draws carry the mean of exp(-n L), so that the value is too low: raise "
        "draws, or gamma"
    )
    return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)


def error_of(view: LossSurface, note: Tensor) -> Tensor:
    """Return the mean error from what is kept of a pass, 0-d.

    Raises:
        Unsupported: where no example is right or wrong.
    """
    if not view.has_errors:
        raise Unsupported("the targets are no classes, so that there is no error whose rise could be measured")
    return view.errors_noted(note).double().mean()


def error_rise(view: LossSurface, spec: Any, errors: Tensor) -> Estimate:
    """Return the mean of the errors, (draws,), above the clean one."""
    clean = float(error_of(view, view.clean().note))
    if not bool(errors.isfinite().all()):
        return Estimate(math.nan)
    value, stderr = mean_and_error((errors - clean).tolist())
    return Estimate(value, stderr, extras={"clean_error": clean, "perturbed_error": value + clean})


LOSSES = ("low_pass_filter", "local_entropy")  # averages of losses; the other is one of errors
SUMMARIES = {"low_pass_filter": mean_loss, "local_entropy": entropy, "local_energy": error_rise}
