"""Task vectors of models, who has the same start, and the angles between them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance.peers import over_partners
from acutance_predictions.pairs.held import HELD, Held

if TYPE_CHECKING:
    from acutance.peers import Peer
    from acutance.surface import LossSurface

COLUMNS = 2**16  # parameters that are multiplied in float64 at a time
APART = "no other model started from the same weights, with parameters of the same names and shapes"
STILL = "its weights are the initial ones: it has no task vector"


@dataclass(frozen=True)
class Moved:
    """A task vector, (p,), on the CPU."""

    v: Tensor

    @property
    def size(self) -> int:
        """Bytes."""
        return self.v.numel() * self.v.element_size()

    @classmethod
    def of(cls, surface: LossSurface) -> Moved:
        """Return w - w0 of an open model."""
        return cls((surface.w - surface.w0).detach().cpu())


def start(surface: LossSurface) -> Hashable:
    """Return what two models need to have in common: names and shapes of the parameters, and their initial weights."""
    layers = tuple((name, tuple(shape)) for name, _, shape, _ in surface.layers)
    w0 = surface.w0.detach().cpu().contiguous()
    return layers, hashlib.sha256(w0.view(torch.uint8).numpy().data).hexdigest()


def opened(peer: Peer, parameters: str) -> LossSurface:
    """Return a model with the parameters free that a pattern names."""
    return peer.surface().restricted(parameters)


def started_alike(
    peers: Sequence[Peer], parameters: str, look: Callable[[int, LossSurface], str]
) -> tuple[list[list[int]], dict[int, str]]:
    """Return the models that started from the same weights, by their places, and why others have no value.

    Args:
        peers: the models; each is opened once.
        parameters: which are free.
        look: takes what it needs of a model, and returns why it has no value; empty where it has one.
    """
    kinds: dict[Hashable, list[int]] = {}
    reasons: dict[int, str] = {}
    for place, peer in enumerate(peers):
        surface = opened(peer, parameters)
        try:
            kind = start(surface)
        except Unsupported as error:
            reasons[place] = str(error)
            continue
        if why := look(place, surface):
            reasons[place] = why
        else:
            kinds.setdefault(kind, []).append(place)
    return list(kinds.values()), reasons


def explained(table: Tensor, peers: Sequence[Peer], reasons: dict[int, str], otherwise: str) -> list[Estimate]:
    """Return the means over partners, with the reason for each that has none.

    Args:
        table: (M, M) values of pairs, NaN where one is not defined.
        peers: the models.
        reasons: of single models, by place.
        otherwise: that of all others.

    Raises:
        Unsupported: where all models have the same reason.
    """
    if len(reasons) == len(peers) and len(set(reasons.values())) == 1:
        raise Unsupported(reasons[0])
    return [
        replace(estimate, message=reasons.get(i, otherwise)) if estimate.status is Status.UNSUPPORTED else estimate
        for i, estimate in enumerate(over_partners(table, peers))
    ]


def cosines(peers: Sequence[Peer], parameters: str) -> list[Estimate]:
    """Return the mean cosine of each model's task vector with those of its partners."""
    table = torch.full((len(peers),) * 2, torch.nan, dtype=torch.float64)
    held = Held(lambda place: Moved.of(opened(peers[place], parameters)), HELD)

    def kept(place: int, surface: LossSurface) -> str:
        held.keep(place, moved := Moved.of(surface))
        return "" if bool(moved.v.any()) else STILL

    kinds, reasons = started_alike(peers, parameters, kept)
    for places in kinds:
        gram = products(held, places)
        lengths = gram.diagonal().sqrt()
        # Divided one after the other: the product of two lengths may leave the range.
        table[torch.tensor(places)[:, None], places] = (gram / lengths / lengths[:, None]).clamp(-1, 1)
    return explained(table, peers, reasons, APART)


def products(held: Held[Moved], places: Sequence[int]) -> Tensor:
    """Return the inner products of the task vectors of some models, (m, m), summed in float64."""
    order = {place: i for i, place in enumerate(places)}
    gram = torch.zeros(len(places), len(places), dtype=torch.float64)
    for block, other in held.blocks(places):
        rows, columns = ([held[place].v for place in some] for some in (block, other))
        found = torch.zeros(len(rows), len(columns), dtype=torch.float64)
        for begin in range(0, len(rows[0]), COLUMNS):
            left, right = (torch.stack([v[begin : begin + COLUMNS].double() for v in vs]) for vs in (rows, columns))
            found += left @ right.T
        i, j = ([order[place] for place in some] for some in (block, other))
        gram[torch.tensor(i)[:, None], j] = found
        gram[torch.tensor(j)[:, None], i] = found.T
    return gram


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of none; the same in every order."""
    return math.fsum(values) / len(values) if values else math.nan
