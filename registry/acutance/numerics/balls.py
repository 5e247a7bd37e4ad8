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

BLOCK = 1 << 16  # elements; a few float32 blocks of this size fit a second-level cache


def blocks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield aligned pieces of (p,) vectors: cache-sized on the CPU, the whole on an accelerator."""
    p = vectors[0].numel()
    size = BLOCK if vectors[0].device.type == "cpu" else max(p, 1)
    for start in range(0, p, size):
        yield tuple(v[start : start + size] for v in vectors)


def dots(*pairs: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the inner products of pairs of (p,) vectors as 0-d float64 tensors, in one walk."""
    sums = [torch.zeros((), dtype=torch.float64, device=pairs[0][0].device) for _ in pairs]
    for piece in blocks(*(v for pair in pairs for v in pair)):
        for i, total in enumerate(sums):
            total += torch.dot(piece[2 * i], piece[2 * i + 1])
    return sums


@dataclass(frozen=True)
class Ball(ABC):
    """A ball of radius rho > 0."""

    rho: float

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """Return the norm of x, (p,), as a 0-d tensor."""

    @abstractmethod
    def steepest(self, g: Tensor) -> Tensor:
        """Return the boundary point that maximises <g, x>, (p,): rho times the steepest ascent direction."""

    @abstractmethod
    def random(self, noise: Tensor, u: float) -> Tensor:
        """Return a point uniform in the ball from unit noise (``gaussian`` or uniform) and u in [0, 1)."""

    @abstractmethod
    def advance(self, x: Tensor, previous: Tensor, g: Tensor, eta: Tensor, momentum: float | None) -> None:
        r"""Write the next iterate of Auto-PGD over ``previous``; g is overwritten.

        .. math:: z = P(x + \eta u(g)), \qquad
           x^+ = P\big(x + \alpha (z - x) + (1 - \alpha)(x - x^-)\big)

        with :math:`\alpha = 1 -` momentum; with ``momentum=None`` (the first step) :math:`x^+ = z`.

        Args:
            x: (p,) iterate.
            previous: (p,) iterate before it; receives the next one.
            g: (p,) gradient at x.
            eta: 0-d float64 step size.
            momentum: weight of the inertia term, 1/4 in Auto-PGD.
        """


class L2(Ball):
    r"""The Euclidean ball; ascent direction :math:`u = g/\|g\|_2`, projection by shrinking."""

    gaussian = True

    def norm(self, x: Tensor) -> Tensor:
        """Return the Euclidean norm."""
        norm: Tensor = dots((x, x))[0].sqrt()
        return norm

    def steepest(self, g: Tensor) -> Tensor:
        """Return rho g / ||g||, or zero where the gradient vanishes."""
        return g * (self.rho * _inverse(self.norm(g))).to(g.dtype)

    def random(self, noise: Tensor, u: float) -> Tensor:
        """Return rho u^(1/dim) noise/||noise||; coordinates where the noise is zero stay at zero."""
        dimension = max(int(torch.count_nonzero(noise)), 1)
        return noise * (self.rho * u ** (1 / dimension) * _inverse(self.norm(noise))).to(noise.dtype)

    def advance(self, x: Tensor, previous: Tensor, g: Tensor, eta: Tensor, momentum: float | None) -> None:
        """Write the next iterate; both projections follow from six inner products, so it takes two walks."""
        gg, xg, xx = dots((g, g), (x, g), (x, x))
        t = eta * _inverse(gg.sqrt())
        # z = s (x + t g)
        s = _shrink(xx + 2 * t * xg + t * t * gg, self.rho)
        if momentum is None:
            on_x, on_previous, on_g = s, torch.zeros_like(s), s * t
        else:
            a, b = 1 - momentum, momentum
            pp, xp, pg = dots((previous, previous), (x, previous), (previous, g))
            on_x, on_previous, on_g = a * s + 2 * b, torch.full_like(s, -b), a * s * t
            squared = (
                on_x**2 * xx + on_previous**2 * pp + on_g**2 * gg
                + 2 * (on_x * on_previous * xp + on_x * on_g * xg + on_previous * on_g * pg)
            )  # fmt: skip
            shrink = _shrink(squared, self.rho)
            on_x, on_previous, on_g = on_x * shrink, on_previous * shrink, on_g * shrink
        on_x, on_previous, on_g = (v.to(x.dtype) for v in (on_x, on_previous, on_g))
        for xi, previous_i, gi in blocks(x, previous, g):
            previous_i.mul_(on_previous).add_(gi.mul_(on_g)).add_(torch.mul(xi, on_x, out=gi))


class Linf(Ball):
    r"""The box; ascent direction :math:`u = \mathrm{sign}(g)`, projection by clipping."""

    gaussian = False

    def norm(self, x: Tensor) -> Tensor:
        """Return the largest magnitude."""
        largest: Tensor = x.abs().max()
        return largest

    def steepest(self, g: Tensor) -> Tensor:
        """Return rho sign(g)."""
        return g.sign().mul_(self.rho)

    def random(self, noise: Tensor, u: float) -> Tensor:
        """Return rho noise, noise uniform on [-1, 1]."""
        return noise * self.rho

    def advance(self, x: Tensor, previous: Tensor, g: Tensor, eta: Tensor, momentum: float | None) -> None:
        """Write the next iterate, clipping coordinate by coordinate."""
        step = eta.to(x.dtype)
        for xi, previous_i, gi in blocks(x, previous, g):
            z = gi.sign_().mul_(step).add_(xi).clamp_(-self.rho, self.rho)
            if momentum is None:
                previous_i.copy_(z)
            else:
                previous_i.mul_(-momentum).add_(xi, alpha=2 * momentum).add_(z, alpha=1 - momentum)
                previous_i.clamp_(-self.rho, self.rho)


def _inverse(x: Tensor) -> Tensor:
    """1/x, and 0 where x is 0: a vanished gradient gives no direction, not a NaN."""
    return torch.where(x > 0, 1 / x, torch.zeros_like(x))


def _shrink(squared_norm: Tensor, rho: float) -> Tensor:
    """The factor that brings a vector of this squared norm into the ball."""
    return torch.clamp(rho * _inverse(squared_norm.clamp_min(0).sqrt()), max=1.0).where(
        squared_norm > 0, torch.ones_like(squared_norm)
    )


def ball(norm: str, rho: float) -> L2 | Linf:
    """Return the ball of a norm by its name, ``l2`` or ``linf``."""
    return L2(rho) if norm == "l2" else Linf(rho)
