r"""The balls :math:`\|\gamma\|_p \le \rho` in which perturbations live, and the moves of Auto-PGD in them.

All work is done in the coordinates :math:`\gamma = \delta \oslash c`, where the adaptive ball is round: the
algorithm is then invariant under function-preserving rescalings, not only the definition. Vectors are
walked in blocks that stay in the processor's cache; scalars stay on the device, so nothing waits for a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.numerics.scalars import Scalar, add_multiple, at_most_one, choose, inverse, root, scalar

BLOCK = 1 << 18  # elements; a few float32 blocks of this size stay in a processor's caches


def blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield aligned pieces of (p,) vectors: cache-sized on the CPU, the whole on an accelerator."""
    p = vectors[0].numel()
    size = BLOCK if vectors[0].device.type == "cpu" else p
    if p <= size:
        yield vectors
        return
    for start in range(0, p, size):
        yield tuple(v[start : start + size] for v in vectors)


def gram(*vectors: Tensor) -> list[Scalar]:
    """Return the inner products of all pairs of (p,) vectors, each with itself first, in double precision.

    For x, y, z: xx, xy, xz, yy, yz, zz; in one walk over the vectors.
    """
    pairs = [(i, j) for i in range(len(vectors)) for j in range(i, len(vectors))]
    sums: list[Scalar] = [0.0] * len(pairs)
    for piece in blocks(*vectors):
        sums = [total + scalar(torch.dot(piece[i], piece[j])) for total, (i, j) in zip(sums, pairs, strict=True)]
    return sums


@dataclass(frozen=True)
class Ball(ABC):
    """A ball of radius rho > 0."""

    rho: float

    @abstractmethod
    def norm(self, x: Tensor) -> Scalar:
        """Return the norm of x, (p,)."""

    @abstractmethod
    def steepest(self, g: Tensor) -> Tensor:
        """Return the boundary point that maximises <g, x>, (p,): rho times the steepest ascent direction."""

    @abstractmethod
    def random(self, noise: Tensor, u: float) -> Tensor:
        """Return a point uniform in the ball, in place of unit noise (``gaussian`` or uniform), from u in [0, 1)."""

    @abstractmethod
    def advance(self, x: Tensor, previous: Tensor, g: Tensor, eta: Scalar, momentum: float | None, out: Tensor) -> None:
        r"""Write the next iterate of Auto-PGD to ``out``; g may be overwritten.

        .. math:: z = P(x + \eta u(g)), \qquad
           x^+ = P\big(x + \alpha (z - x) + (1 - \alpha)(x - x^-)\big)

        with :math:`\alpha = 1 -` momentum; with ``momentum=None`` (the first step) :math:`x^+ = z`.

        Args:
            x: (p,) iterate.
            previous: (p,) iterate before it.
            g: (p,) gradient at x.
            eta: step size.
            momentum: weight of the inertia term, 1/4 in Auto-PGD.
            out: (p,) the next iterate; may be ``previous``, but not x.
        """


class L2(Ball):
    r"""The Euclidean ball; ascent direction :math:`u = g/\|g\|_2`, projection by shrinking."""

    gaussian = True

    def norm(self, x: Tensor) -> Scalar:
        """Return the Euclidean norm."""
        return root(gram(x)[0])

    def steepest(self, g: Tensor) -> Tensor:
        """Return rho g / ||g||, or zero where the gradient vanishes."""
        return g * (self.rho * inverse(self.norm(g)))

    def random(self, noise: Tensor, u: float) -> Tensor:
        """Return rho u^(1/dim) noise/||noise||; coordinates where the noise is zero stay at zero."""
        dimension = max(int(torch.count_nonzero(noise)), 1)
        return noise.mul_(self.rho * u ** (1 / dimension) * inverse(self.norm(noise)))

    def advance(self, x: Tensor, previous: Tensor, g: Tensor, eta: Scalar, momentum: float | None, out: Tensor) -> None:
        """Write the next iterate; both projections follow from six inner products, so it takes two walks."""
        if momentum is None:
            xx, xg, gg = gram(x, g)
        else:
            xx, xg, xp, gg, pg, pp = gram(x, g, previous)
        t = eta * inverse(root(gg))
        # z = s (x + t g)
        s = _shrink(xx + 2 * t * xg + t * t * gg, self.rho)
        if momentum is None:
            for xi, gi, to in blocks(x, g, out):
                add_multiple(xi, t, gi, out=to).mul_(s)
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
        for xi, previous_i, gi, to in blocks(x, previous, g, out):
            add_multiple(torch.mul(previous_i, on_previous, out=to), on_g, gi, out=to)
            add_multiple(to, on_x, xi, out=to)


class Linf(Ball):
    r"""The box; ascent direction :math:`u = \mathrm{sign}(g)`, projection by clipping."""

    gaussian = False

    def norm(self, x: Tensor) -> Scalar:
        """Return the largest magnitude."""
        return scalar(x.abs().max())

    def steepest(self, g: Tensor) -> Tensor:
        """Return rho sign(g)."""
        corner: Tensor = g.sign().mul_(self.rho)
        return corner

    def random(self, noise: Tensor, u: float) -> Tensor:
        """Return rho noise, noise uniform on [-1, 1]."""
        return noise.mul_(self.rho)

    def advance(self, x: Tensor, previous: Tensor, g: Tensor, eta: Scalar, momentum: float | None, out: Tensor) -> None:
        """Write the next iterate, clipping coordinate by coordinate."""
        for xi, previous_i, gi, to in blocks(x, previous, g, out):
            if momentum is None:
                add_multiple(xi, eta, gi.sign_(), out=to).clamp_(-self.rho, self.rho)
                continue
            z = add_multiple(xi, eta, gi.sign_(), out=gi).clamp_(-self.rho, self.rho)
            torch.mul(previous_i, -momentum, out=to).add_(xi, alpha=2 * momentum).add_(z, alpha=1 - momentum)
            to.clamp_(-self.rho, self.rho)


def _shrink(squared_norm: Scalar, rho: float) -> Scalar:
    """The factor that brings a vector of this squared norm into the ball."""
    length = root(squared_norm)
    return choose(length > 0, at_most_one(rho * inverse(length)), 1.0)


def ball(norm: str, rho: float) -> L2 | Linf:
    """Return the ball of a norm by its name, ``l2`` or ``linf``."""
    return L2(rho) if norm == "l2" else Linf(rho)
