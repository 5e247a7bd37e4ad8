r"""Whether the gradient of a model is its derivative: found once a model, from differences along a random direction.

A parameter of which a part is detached, a straight-through estimator, or a backward pass of one's own may give a
gradient that is something else. For :math:`\varphi(w) = \langle u, f(w) \rangle` with random u and a random direction d

.. math:: \delta = \frac{\varphi(w + td) - \varphi(w - td)}{2t} - \langle \nabla \varphi(w), d \rangle

vanishes with t wherever :math:`\varphi` is differentiable, and is compared with :math:`\|\nabla \varphi \circ d\|`, the
spread of the last term. Every parameter's share of it is made the same, as far as that goes, so that small ones count.
Kinks, steep slopes and float32 leave something at any t that float32 can resolve. So float32 may only acquit: a model
that it does not acquit is tried again in float64, a thousand times closer to the point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.model.conditions import conditions
from acutance.model.derivatives import coarsest, gradients, gradients_into, graph_nodes
from acutance.model.weights import LARGE

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel

# Changes of the outputs, in units of theirs: as small as rounding allows, and longer, where less is lost to rounding.
STEPS = {torch.float32: (3e-4, 1e-3), torch.float64: (1e-6, 1e-4)}
SHARE = {torch.float32: 0.01, torch.float64: 0.005}  # of the spread that the excess may be
KINKS = 0.1  # the same share where float32 must name parameters
FLAT = 1e-3  # spread below which, in units of the outputs, it is not made larger
BOOST = 10.0  # by how much a parameter's part of a direction is lengthened at most
ROUNDED = 30.0  # rounding of a difference, in units of the outputs' own
CHUNK = 1 << 20  # numbers of a parameter that are looked at together
SEED = 1 << 20  # apart from the seeds of the point


class Secants:
    """A point of a model, its gradient there, and the excess of differences over it.

    Of the gradient nothing is held but its products with a direction, which is made of its seed where it is used. Of
    very many weights no gradient is held at any time, and they are moved where they lie: the point is all there is.

    Args:
        functional: the model.
        point: one tensor for each of its parameters, in its shape; memory of its own.
        inputs: a few examples.
        book: called with the passes made, in forwards; a backward counts as two.

    Attributes:
        lost: the parameters that the graph of the logits does not lead to.
    """

    def __init__(
        self, functional: FunctionalModel, point: Sequence[Tensor], inputs: Any, book: Callable[[int], None]
    ) -> None:
        self.functional, self.inputs, self._book = functional, inputs, book
        self._u, self._coarse, self._size = torch.empty(0), torch.finfo(functional.dtype).eps, 0.0
        self._large = sum(piece.numel() for piece in point) >= LARGE
        self._rows = functional.padding_rows()
        self._lengths, self._slopes, self._shares = list[Tensor](), list[float](), list[float]()
        self.point: Sequence[Tensor] = point
        with conditions(functional, order=1):
            leaves = [piece.detach().requires_grad_() for piece in point]
            with functional.holding(leaves):
                raw = functional(leaves, inputs)
                reached = {id(node.variable) for node in graph_nodes(raw.grad_fn) if hasattr(node, "variable")}
                self.lost = [i for i, leaf in enumerate(leaves) if id(leaf) not in reached]
                if functional.sharded is not None:
                    self.lost = []  # told by the backward pass: what the graph leads to was gathered for it
                if reached and bool(raw.isfinite().all()):
                    self._differentiate(raw, leaves)
        self.point = [leaf.detach() for leaf in leaves]
        book(3 if self._slopes else 1)

    def _differentiate(self, raw: Tensor, leaves: list[Tensor]) -> None:
        self._coarse = coarsest(raw)
        generator = torch.Generator(raw.device).manual_seed(SEED)
        self._u = torch.randn(raw.shape, generator=generator, dtype=torch.float64, device=raw.device)
        self._size = float((self._u * raw.detach().double()).norm())
        sizes = [torch.linalg.vector_norm(leaf.detach()) / max(leaf.numel(), 1) ** 0.5 for leaf in leaves]
        self._lengths = [
            size.masked_fill(size == 0, 0.1) * float(i not in self.lost) * 3**0.5 for i, size in enumerate(sizes)
        ]
        products = [torch.zeros(2, dtype=torch.float64, device=leaf.device) for leaf in leaves]

        def note(i: int, g: Tensor) -> None:
            products[i] = _products(g, self._direction(i))

        value = (self._u * raw.double()).sum()
        if self.functional.sharded is not None:
            self.lost = self.functional.sharded.gradients_into(value, range(len(leaves)), note)
            for i in self.lost:
                self._lengths[i] = torch.zeros_like(self._lengths[i])
        elif self._large:
            gradients_into(value, leaves, note)
        else:
            for i, g in enumerate(gradients(value, leaves)):
                note(i, g)
        pairs = torch.stack([pair.to(raw.device) for pair in products])
        if (portion := self.functional.portion(range(len(leaves)))) is not None:
            sums = portion.summed(torch.stack([pairs[:, 0].square(), pairs[:, 1]], 1).cpu())
            pairs = torch.stack([sums[:, 0].sqrt(), sums[:, 1]], 1).to(raw.device)
        self._even(pairs)

    def _even(self, products: Tensor) -> None:
        """Make every parameter's part of the direction as long as makes the shares of the spread the same.

        Args:
            products: (parameters, 2) the norm of the gradient times the direction, and their dot product.
        """
        shares, slopes = products.unbind(1)
        boosts = (shares.square().mean().sqrt() / shares).nan_to_num(1.0, BOOST).clamp(max=BOOST)
        self._lengths = [length * boost.to(length) for length, boost in zip(self._lengths, boosts, strict=True)]
        self._shares, self._slopes = (shares * boosts).tolist(), (slopes * boosts).tolist()
        self._spread = max(self._spread_of(range(len(self.point))), FLAT * self._size)

    @property
    def steps(self) -> tuple[float, float]:
        """Lengths at which to look, by how finely the model computes: longer ones where float64 meets float32 in it."""
        short, long = STEPS[self.functional.dtype]
        return (long, 10 * long) if self._coarse > 1e3 * torch.finfo(self.functional.dtype).eps else (short, long)

    def exceeds(self, step: float) -> float:
        """Return by how much differences of a length exceed the gradient, 0 where they do not; two forwards."""
        if not self._slopes or not self._size:
            return 0.0
        return self._excess(range(len(self.point)), step, SHARE[self.functional.dtype] * self._spread)

    def localise(self, step: float, share: float, remaining: Callable[[], int]) -> list[int]:
        """Return the parameters behind an excess; halves without one are passed over.

        Args:
            step: as it was found with.
            share: of their spread that the excess of some may be.
            remaining: returns how many forwards may still be made; what they do not tell apart is returned together.
        """
        waiting, slots = [[i for i in range(len(self.point)) if i not in self.lost]], list[int]()
        while waiting:
            waiting.sort(key=len)
            group = waiting.pop()
            if len(group) == 1 or remaining() < 4:
                slots += group
                continue
            halves = [group[: len(group) // 2], group[len(group) // 2 :]]
            behind = [half for half in halves if self._excess(half, step, share * self._spread_of(half))]
            waiting += behind
            slots += [] if behind else group
        return sorted(slots)

    def _direction(self, i: int) -> Tensor:
        """Return the direction's part in a parameter, in its shape: always the same numbers."""
        piece = self.point[i]
        generator = torch.Generator(piece.device).manual_seed(SEED + 1 + i)
        part = torch.empty_like(piece, requires_grad=False).uniform_(-1, 1, generator=generator).mul_(self._lengths[i])
        for slot, row in self._rows:
            if slot == i:
                part[row] = 0.0
        return part

    def _spread_of(self, slots: Sequence[int]) -> float:
        return float(sum(self._shares[i] ** 2 for i in slots) ** 0.5)

    def _excess(self, slots: Sequence[int], step: float, least: float) -> float:
        """Return the excess along the direction's parts in some parameters; 0 where it is too small to tell."""
        moving = set(slots)
        t = step * min(self._size / self._spread, 1.0)
        if not t > 0:
            return 0.0  # the slope is beyond all numbers: no difference could tell anything of it
        slope = sum(self._slopes[i] for i in slots)
        ends = []
        for sign in (1.0, -1.0):
            with conditions(self.functional):
                moved = self._moved(moving, sign * t)
                raw = self.functional(moved, self.inputs)
                if self._large:
                    self._moved(moving, -sign * t)  # back, but for rounding
            ends.append(float((self._u * raw.double()).sum()) if raw.shape == self._u.shape else float("nan"))
        self._book(2)
        excess = (ends[0] - ends[1]) / (2 * t) - slope
        resolved = abs(excess) * 2 * t > ROUNDED * self._coarse * self._size
        return excess if isfinite(excess) and resolved and abs(excess) > least else 0.0

    def _moved(self, moving: set[int], t: float) -> list[Tensor]:
        """Return the point with some parameters moved by t times the direction; where they lie, if they are many."""
        return [
            torch.add(piece, self._direction(i), alpha=t, out=piece if self._large else None) if i in moving else piece
            for i, piece in enumerate(self.point)
        ]


def steady(long: float, short: float) -> bool:
    """Whether an excess is the same at two lengths: a kink's grows with the length, that of rounding falls."""
    return abs(short - long) <= 0.25 * abs(long)


def wrong(secants: Secants, in_double: Callable[[], Secants | None], remaining: Callable[[], int]) -> list[int]:
    """Return the parameters in which the gradient is not the derivative.

    Args:
        secants: at a point of the model.
        in_double: returns the same in float64, or None where the model cannot be evaluated in it.
        remaining: returns how many forwards may still be made, to name parameters once it is known that there are some.
    """
    if not secants.exceeds(secants.steps[0]):
        return []
    if secants.functional.dtype == torch.float32:
        double = in_double()
        if double is None:
            return _lost_in_single(secants, remaining)
        secants = double
    short, long = secants.steps
    confirmed = secants.exceeds(short) and secants.exceeds(long)
    return secants.localise(short, SHARE[torch.float64], remaining) if confirmed else []


def _lost_in_single(secants: Secants, remaining: Callable[[], int]) -> list[int]:
    """Return what float32 tells: with the step a kink's excess grows, that of rounding falls, a lost part's stays."""
    short, long = map(secants.exceeds, secants.steps)
    return secants.localise(secants.steps[1], KINKS, remaining) if long and steady(long, short) else []


def _products(g: Tensor, direction: Tensor) -> Tensor:
    """Return the norm of g times a direction, and their dot product, (2,) float64."""
    pairs = zip(g.reshape(-1).split(CHUNK), direction.reshape(-1).split(CHUNK), strict=True)
    squares, sums = torch.stack(
        [torch.stack([p.square().sum(), p.sum()]) for p in ((a * b).double() for a, b in pairs)]
    ).sum(0)
    return torch.stack([squares.sqrt(), sums])
