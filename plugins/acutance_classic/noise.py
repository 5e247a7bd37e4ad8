"""Losses and errors under noise that is the same at every scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported
from acutance.numerics.draws import Streams
from acutance_classic.plugin import FAMILIES
from acutance_classic.search import Found, bisect

if TYPE_CHECKING:
    from acutance.scaling import PieceUnits
    from acutance.surface import LossSurface
    from acutance.surface.moving_point import MovingPoint
    from acutance_classic.basin import BasinSpec
    from acutance_classic.pac_bayes import DeviationSpec

ROUNDING = 1e-9  # of a limit: errors are shares of points, whose sums may meet it exactly


class Walk:
    """Passes at w* + noise, draw k being the same unit noise at every scale.

    Args:
        surface: whose logits; its free parameters move.
        draws: how many noises.
        rng: their source.
        c: (p,) units, or None for ones.
    """

    def __init__(self, surface: LossSurface, draws: int, rng: Streams, c: Tensor | None = None) -> None:
        self._surface, self._draws, self._rng, self.passes = surface, draws, rng, 0
        self.point, self._noise = surface.moving_point(c), torch.empty_like(surface.w)

    def points(self, scale: float, deviations: Tensor | None = None) -> Iterator[MovingPoint]:
        """Yield the point at every noise, times the scale, or times (p,) standard deviations."""
        for k in range(self._draws):
            z = self._rng.normal("noise", k, self._surface.w, out=self._noise)
            self.passes += 1
            yield self.point.move(z if deviations is None else z.mul_(deviations), scale)


class PieceByPiece:
    """The same passes, whose noise is made where it is added to the weights: no vector is held.

    Args:
        surface: whose logits; its free parameters move.
        draws: how many noises.
        rng: their source.
        c: units, or None for ones.
    """

    def __init__(self, surface: LossSurface, draws: int, rng: Streams, c: PieceUnits | None) -> None:
        self._surface, self._draws, self._rng, self.passes = surface, draws, rng, 0
        self.point = surface.piecewise_point(c)

    def points(self, scale: float) -> Iterator[MovingPoint]:
        """Yield the point at every noise, times the scale."""
        for k in range(self._draws):
            self.passes += 1
            noise = self._rng.noise("normal", "noise", k, self._surface.size)
            yield self.point.place(noise, scale)


def walk_of(surface: LossSurface, name: str, draws: int, rng: Streams) -> Walk | PieceByPiece:
    """Return passes at noise in units of a scaling.

    Raises:
        Unsupported: for units that are all zero.
    """
    if surface.moves_in_place:
        units = scaling.units(surface, name)
        still = units is not None and units.norm() == 0
    else:
        c = scaling.vector(surface, name)
        still = c is not None and not bool(c.any())
    if still:
        raise Unsupported(f"scaling '{name}' is zero for all of these weights: none of them moves")
    return PieceByPiece(surface, draws, rng, units) if surface.moves_in_place else Walk(surface, draws, rng, c)


def stays(terms: Iterable[float], limit: float, nonnegative: bool) -> bool:
    """Return whether a sum is within a limit; terms that cannot fall back below it need not all be made. NaN is not."""
    total = 0.0
    for term in terms:
        total += term
        if nonnegative and not total <= limit:
            return False
    return total <= limit


def mean_error(surface: LossSurface, note: Tensor) -> float:
    """Return the share of wrong points, from what is kept of a pass; NaN where one predicts nothing."""
    return float(surface.errors_noted(note).double().mean())


def refuse_numbers(surface: LossSurface) -> None:
    """Refuse a surface whose targets are numbers.

    Raises:
        Unsupported: saying so.
    """
    if not surface.has_errors:
        raise Unsupported("accuracy needs class labels, the targets are numbers")


def steady_noise(surface: LossSurface, spec: DeviationSpec, eps: float | None, rng: Streams) -> Found:
    r"""Return the largest standard deviation whose noise leaves the accuracy where it is, up to a deviation.

    .. math:: \tfrac1K \sum_k |\mathrm{acc}(w) - \mathrm{acc}(w + u_k)| \le \text{deviation}, \qquad
       u_k = \sigma z_k \ \text{or}\ u_{k,i} = z_{k,i} \sqrt{\sigma^2 w_i^2 + \epsilon^2}

    Searched once for a surface: all members of the family that ask with the same settings share it.
    """
    refuse_numbers(surface)
    members = {*FAMILIES["pac_bayes"], *FAMILIES["pac_bayes_bounds"]}
    # Named by the family: who asks first must not decide which noise it is.
    rng = Streams(*("pac_bayes" if str(part).rpartition("/")[2] in members else part for part in rng.context))
    settings = (spec.parameters, spec.deviation, spec.draws, spec.smallest, spec.largest, spec.rtol, eps)
    return surface.memo(("classic.noise", settings, rng.context), lambda: _steady_noise(surface, spec, eps, rng))


@torch.no_grad()
def _steady_noise(surface: LossSurface, spec: DeviationSpec, eps: float | None, rng: Streams) -> Found:
    part = surface.restricted(spec.parameters)
    clean = mean_error(part, part.clean().note)
    walk, limit = Walk(part, spec.draws, rng), spec.deviation * spec.draws * (1 + ROUNDING)

    def within(sigma: float) -> bool:
        points = (
            walk.points(sigma) if eps is None else walk.points(1.0, (part.w * sigma).square_().add_(eps**2).sqrt_())
        )
        moved = (abs(mean_error(part, point.seen_by([]).note) - clean) for point in points)
        return stays(moved, limit, nonnegative=True)

    if math.isnan(clean):
        return Found(clean, "the outputs of the model are not finite: there is no accuracy to keep")
    with walk.point.held():
        found = bisect(within, spec, "the accuracy")
    return replace(found, extras={"clean_error": clean, "passes": walk.passes})


@torch.no_grad()
def steady_loss(surface: LossSurface, spec: BasinSpec, rng: Streams) -> Found:
    r"""Return the largest scale of noise in units of c at which the mean loss, or error, rises by at most a drop."""
    part = surface.restricted(spec.parameters)
    view = part.transformed(spec.logit_norm, spec.norm_scale)
    walk = walk_of(part, spec.scaling, spec.draws, rng)
    if spec.of == "error":
        refuse_numbers(view)

    def read(loss: Tensor, note: Tensor) -> float:
        return float(loss) if spec.of == "loss" else mean_error(view, note)

    def level(point: MovingPoint) -> float:
        seen = point.seen_by([view])
        return read(seen.losses[0], seen.note)

    clean = read(view.clean().loss, view.clean().note)
    limit = (clean + spec.drop) * spec.draws * (1 + ROUNDING)
    nonnegative = spec.of == "error" or isinstance(view.criterion, str)
    if not math.isfinite(clean):
        return Found(math.nan, f"the {spec.of} is {clean} at the model's own weights: nothing can rise above it")
    with walk.point.held():
        found = bisect(lambda s: stays(map(level, walk.points(s)), limit, nonnegative), spec, f"the {spec.of}")
    return replace(found, extras={f"clean_{spec.of}": clean, "passes": walk.passes})
