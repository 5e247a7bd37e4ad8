"""The loss on the segments between models: which models have one, and how far it rises above the chord."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_predictions.pairs.ends import End, between, on_the_way
from acutance_predictions.pairs.held import HELD, Held
from acutance_predictions.pairs.matching import Matching

if TYPE_CHECKING:
    from acutance.peers import Peer
    from acutance.surface import LossSurface

TURNED = (
    "with its neurons in another order this network is another function, so they are not matched: measure "
    "'alignment: none'"
)
SAME = 1e-3  # of the largest logit: a model that another one's code gives back but for rounding

Reading = Callable[["LossSurface", Tensor], float]  # loss or error of raw logits (n, K)


def loss_of(surface: LossSurface, raw: Tensor) -> float:
    """Return the mean loss of raw logits, (n, K)."""
    return float(surface.loss_of(raw))


def error_of(surface: LossSurface, raw: Tensor) -> float:
    """Return the share of wrong predictions of raw logits, (n, K); NaN where one is not finite.

    Raises:
        Unsupported: where it is not defined which predictions are wrong.
    """
    if not surface.has_errors:
        raise Unsupported("the targets are no classes, so there is no error: measure 'of: loss'")
    return float(surface.errors_of(raw).double().mean())


def signature(surface: LossSurface) -> Hashable:
    """Return what two models need to have in common for a segment: names and shapes of all weights, and the points."""
    layers = tuple((name, tuple(shape)) for name, _, shape, _ in surface.layers)
    buffers = tuple((name, tuple(buffer.shape)) for name, buffer in surface.buffers.items())
    return layers, buffers, surface.digest


@dataclass
class Family:
    """Models that are one network at several weights.

    Attributes:
        surface: of the first of them, which all points are evaluated with.
        places: of the models.
    """

    surface: LossSurface
    places: list[int]


def kinds(peers: Sequence[Peer], ends: Held[End]) -> list[list[int]]:
    """Return the models that agree in their signature, by name; each is opened once."""
    found: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(peers)), key=lambda i: peers[i].name):
        surface = peers[place].surface().unrestricted()
        ends.keep(place, End.of(surface))
        found.setdefault(signature(surface), []).append(place)
    return list(found.values())


def families(places: Sequence[int], peers: Sequence[Peer], ends: Held[End]) -> Iterator[Family]:
    """Yield the families among models of one kind; a forward for each but the first tells whether it belongs.

    Models of equal names and shapes may be other functions (another activation): the first one's code at the weights of
    another has to give back its logits.
    """
    while places:
        first, *others = places
        surface = peers[first].surface().unrestricted()
        alike = {place for place in others if _is_one(surface, ends[place], peers[place].logits)}
        yield Family(surface, [first, *(place for place in others if place in alike)])
        places = [place for place in others if place not in alike]


def _is_one(surface: LossSurface, end: End, logits: Tensor) -> bool:
    """Return whether a surface's model at the weights of another one has its logits."""
    here = end.to(surface.w.device)
    raw = surface.with_buffers(here.buffers).raw_logits(here.w).detach().cpu()
    if raw.shape != logits.shape:
        return False
    numbers = logits[logits.isfinite()].abs()
    scale = float(numbers.max()) if numbers.numel() else 0.0
    return bool(torch.isclose(raw, logits.to(raw), rtol=0, atol=SAME * scale, equal_nan=True).all())


def value_at(surface: LossSurface, point: End, reading: Reading, recalibrated: bool) -> float:
    """Return loss or error at a point: n forwards, and n more where batch normalization is recalibrated there."""
    there = surface.with_buffers(point.buffers)
    if recalibrated:
        there = there.recalibrated(point.w)
    return reading(there, there.raw_logits(point.w))


def value_of(surface: LossSurface, end: End, logits: Tensor, reading: Reading, recalibrated: bool) -> float:
    """Return loss or error of a model: from its logits, or 2n forwards where its statistics are recalibrated."""
    own = surface.with_buffers(end.buffers)
    there = own.recalibrated(end.w) if recalibrated else own
    return reading(there, logits.to(end.w) if there is own else there.raw_logits(end.w))


def barrier(values: Sequence[float], first: float, last: float) -> float:
    r"""Return :math:`\max_t [L_t - (1 - t) L_0 - t L_1]` over the ends and the points between them, at least 0.

    Args:
        values: at equally spaced points between the ends.
        first: at one end.
        last: at the other.

    Returns:
        Infinity where a value between the ends is no number: weights there overflow.
    """
    steps = len(values) + 1
    chord = [on_the_way(first, last, k, steps) for k in range(1, steps)]
    rises = [value - below for value, below in zip(values, chord, strict=True)]
    return math.inf if any(map(math.isnan, rises)) else max(0.0, *rises)


@dataclass
class Barriers:
    """The barriers of all pairs.

    Attributes:
        table: (M, M), NaN where a pair has none.
        values: loss or error of each model.
        reasons: why models of a family have none, by place.
    """

    table: list[list[float]]
    values: list[float]
    reasons: dict[int, str]


def barriers(peers: Sequence[Peer], grid: int, reading: Reading, recalibrated: bool, aligned: bool = False) -> Barriers:
    """Return the barriers between all models.

    Args:
        peers: the models.
        grid: points of a segment, with its ends.
        reading: what is measured.
        recalibrated: whether batch normalization gets statistics of its own at each point, ends too.
        aligned: whether the neurons of the second model of each pair are matched with those of the first.
    """
    count, ends = len(peers), Held(lambda place: End.of(peers[place].surface().unrestricted()), HELD)
    found = Barriers([[math.nan] * count for _ in range(count)], [math.nan] * count, {})
    for places in kinds(peers, ends):
        try:
            for family in families(places, peers, ends):
                _enter(family, peers, ends, found, grid, reading, recalibrated, aligned)
        except Unsupported as error:
            # As of weights whose parametrization jumps between two models; models of another kind may have values.
            found.reasons |= dict.fromkeys(places, str(error))
    return found


def _enter(
    family: Family,
    peers: Sequence[Peer],
    ends: Held[End],
    found: Barriers,
    grid: int,
    reading: Reading,
    recalibrated: bool,
    aligned: bool,
) -> None:
    """Enter the barriers of a family."""
    surface, device = family.surface, family.surface.w.device
    matching = Matching.of(surface) if aligned and len(family.places) > 1 else None
    for i in family.places:
        found.values[i] = value_of(surface, ends[i].to(device), peers[i].logits, reading, recalibrated)
    for i, j in ends.pairs([i for i in family.places if math.isfinite(found.values[i])]):
        a, b = ends[i].to(device), ends[j].to(device)
        if matching is not None:
            b = matching.aligned(a, b)
            if not _is_one(surface, b, peers[j].logits):
                raise Unsupported(TURNED)
        points = (between(a, b, k, grid - 1) for k in range(1, grid - 1))
        values = [value_at(surface, point, reading, recalibrated) for point in points]
        found.table[i][j] = found.table[j][i] = barrier(values, found.values[i], found.values[j])
