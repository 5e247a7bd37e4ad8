r"""The balls :math:`\|\gamma\|_p \le \rho` in which perturbations live, and the moves of Auto-PGD in them.

All work is done in the coordinates :math:`\gamma = \delta \oslash c`, where the adaptive ball is round: the
algorithm is then invariant under function-preserving rescalings, not only the definition. Vectors are
walked in blocks that stay in the processor's cache; scalars stay on the device, so nothing waits for a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from acutance.numerics.kept import Copied, Kept, Signs
from acutance.numerics.scalars import Scalar, add_multiple, at_most_one, choose, inverse, root, scalar
from acutance.numerics.slopes import Slope, blocks
from acutance.numerics.units import Units
from acutance.numerics.walks import Destination, confined, walker


def gram(walk: Iterable[tuple[Tensor, ...]], exactly: bool = False) -> list[Scalar]:
    """Return the inner products of all pairs of the vectors walked over, in double precision.

    For x, y, z: xx, xy, xz, yy, yz, zz; in one walk.

    Args:
        walk: aligned blocks of the vectors, as ``slopes.blocks`` yields them.
        exactly: whether products are rounded in double precision too, not only the sums of those of blocks.
    """
    sums: list[Scalar] = []
    for piece in walk:
        piece = tuple(one.double() for one in piece) if exactly else piece
        products = [scalar(torch.dot(a, b)) for a, b in combinations_with_replacement(piece, 2)]
        sums = [total + more for total, more in zip(sums, products, strict=True)] if sums else products
    return sums


@dataclass(frozen=True)
class Ball(ABC):
    """A ball of radius rho > 0."""

    rho: float

    @abstractmethod
    def norm(self, x: Tensor) -> Scalar:
        """Return the norm of x, (p,)."""

    @abstractmethod
    def steepest(self, g: Slope) -> Tensor:
        """Return the boundary point that maximises <g, x>, (p,): rho times the steepest ascent direction."""

    @abstractmethod
    def kept(self, g: Slope) -> Kept:
        """Return memory of what a step needs of the gradient at the best point, with that of g."""

    @abstractmethod
    def random(self, noise: Tensor, u: float, c: Tensor | Units | None = None) -> Tensor:
        """Return a point uniform in the ball, in place of unit noise (``gaussian`` or uniform), from u in [0, 1).

        Coordinates with c = 0 cannot move: it is uniform over the others.
        """

    @abstractmethod
    def advance(
        self, x: Tensor, previous: Tensor, g: Slope, eta: Scalar, momentum: float | None, out: Tensor,
        to: Destination | None = None,
    ) -> None:  # fmt: skip
        r"""Write the next iterate of Auto-PGD to ``out``.

        .. math:: z = P(x + \eta u(g)), \qquad
           x^+ = P\big(x + \alpha (z - x) + (1 - \alpha)(x - x^-)\big)

        with :math:`\alpha = 1 -` momentum; with ``momentum=None`` (the first step) :math:`x^+ = z`.

        Args:
            x: (p,) iterate.
            previous: (p,) iterate before it.
            g: gradient at x.
            eta: step size.
            momentum: weight of the inertia term, 1/4 in Auto-PGD.
            out: (p,) the next iterate; may be ``previous``, but not x.
            to: where the next iterate is to lie as weights, in the gradient's units; a compiled walk puts it there.
        """


class L2(Ball):
    r"""The Euclidean ball; ascent direction :math:`u = g/\|g\|_2`, projection by shrinking."""

    gaussian = True

    def norm(self, x: Tensor) -> Scalar:
        """Return the Euclidean norm."""
        return root(gram(blocks(x))[0])

    def steepest(self, g: Slope) -> Tensor:
        """Return rho g / ||g||, or zero where the gradient vanishes."""
        (squared,) = gram((gi,) for gi, _ in g.walk())
        factor, point = self.rho * inverse(root(squared)), g.new_empty()
        for gi, _, to in g.walk(point):
            torch.mul(gi, factor, out=to)
        return point

    def kept(self, g: Slope) -> Kept:
        """Return a copy."""
        return Copied(g)

    def random(self, noise: Tensor, u: float, c: Tensor | Units | None = None) -> Tensor:
        """Return rho u^(1/dim) noise/||noise||; coordinates where the noise is zero stay at zero."""
        count, squared = confined(noise, c)
        return noise.mul_(self.rho * u ** (1 / max(int(count), 1)) * inverse(root(squared)))

    def advance(
        self, x: Tensor, previous: Tensor, g: Slope, eta: Scalar, momentum: float | None, out: Tensor,
        to: Destination | None = None,
    ) -> None:  # fmt: skip
        """Write the next iterate; both projections follow from six inner products, so it takes two walks."""
        walk = walker(g.parts, x, to, eta)
        if walk is not None:
            gg, xg, pg, xx, xp, pp = walk.products(previous)
        else:
            walked = g.rewalked(x, previous, out)
            # A long search makes 2e-6 of a value of what float32 loses here: as compiled walks do.
            gg, xg, pg, xx, xp, pp = gram(((gi, xi, pi) for gi, _, xi, pi, _ in walked()), exactly=x.is_cpu)
        t = eta * inverse(root(gg))
        # z = s (x + t g)
        s = _shrink(xx + 2 * t * xg + t * t * gg, self.rho)
        if momentum is None:
            if walk is not None:
                walk.sphere(previous, out, (s, 0.0, t), first=True)
                return
            for gi, _, xi, _, next_i in walked():
                add_multiple(xi, t, gi, out=next_i).mul_(s)
            return
        a, b = 1 - momentum, momentum
        on_x: Scalar = a * s + 2 * b
        on_previous: Scalar = -b
        on_g: Scalar = a * s * t
        squared = (
            on_x * on_x * xx + b * b * pp + on_g * on_g * gg
            + 2 * (on_x * on_previous * xp + on_x * on_g * xg + on_previous * on_g * pg)
        )  # fmt: skip
        shrink = _shrink(squared, self.rho)
        on_x, on_previous, on_g = on_x * shrink, on_previous * shrink, on_g * shrink
        if walk is not None:
            walk.sphere(previous, out, (on_x, on_previous, on_g), first=False)
            return
        for gi, _, xi, previous_i, next_i in walked():
            add_multiple(torch.mul(previous_i, on_previous, out=next_i), on_g, gi, out=next_i)
            add_multiple(next_i, on_x, xi, out=next_i)


class Linf(Ball):
    r"""The box; ascent direction :math:`u = \mathrm{sign}(g)`, projection by clipping."""

    gaussian = False

    def norm(self, x: Tensor) -> Scalar:
        """Return the largest magnitude."""
        return scalar(x.abs().max())

    def steepest(self, g: Slope) -> Tensor:
        """Return rho sign(g)."""
        corner = g.new_empty()
        for gi, _, to in g.walk(corner):
            torch.sign(gi, out=to).mul_(self.rho)
        return corner

    def kept(self, g: Slope) -> Kept:
        """Return the signs."""
        return Signs(g)

    def random(self, noise: Tensor, u: float, c: Tensor | Units | None = None) -> Tensor:
        """Return rho noise, noise uniform on [-1, 1]."""
        if c is not None:
            confined(noise, c)
        return noise.mul_(self.rho)

    def advance(
        self, x: Tensor, previous: Tensor, g: Slope, eta: Scalar, momentum: float | None, out: Tensor,
        to: Destination | None = None,
    ) -> None:  # fmt: skip
        """Write the next iterate, clipping coordinate by coordinate."""
        walk = walker(g.parts, x, to, eta)
        if walk is not None:
            walk.box(previous, out, eta, self.rho, momentum)
            return
        for gi, scratch, xi, previous_i, next_i in g.walk(x, previous, out):
            sign = torch.sign(gi, out=scratch)
            if momentum is None:
                add_multiple(xi, eta, sign, out=next_i).clamp_(-self.rho, self.rho)
                continue
            z = add_multiple(xi, eta, sign, out=scratch).clamp_(-self.rho, self.rho)
            torch.mul(previous_i, -momentum, out=next_i).add_(xi, alpha=2 * momentum).add_(z, alpha=1 - momentum)
            next_i.clamp_(-self.rho, self.rho)


def _shrink(squared_norm: Scalar, rho: float) -> Scalar:
    """The factor that brings a vector of this squared norm into the ball."""
    length = root(squared_norm)
    return choose(length > 0, at_most_one(rho * inverse(length)), 1.0)


def ball(norm: str, rho: float) -> L2 | Linf:
    """Return the ball of a norm by its name, ``l2`` or ``linf``."""
    return L2(rho) if norm == "l2" else Linf(rho)
