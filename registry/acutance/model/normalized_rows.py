r"""Logit normalization: the paper's and that of the released code, of very many classes with derivatives written out.

With t the logits less their mean, s their spread (the paper's :math:`\|t\|/\sqrt K`, the released code's
:math:`\|t\|`), :math:`z = t / s`, q = 1/K (paper) or 1, and B the identity (paper) or the projection that takes means
away, the normalized logits are :math:`y = B f / s`, and

.. math:: J u = \frac{B u - q\, y\, (z^\top u)}{s}, \quad J^\top u = \frac{B u - q\, z\, (y^\top u)}{s}, \qquad
   \nabla_f\, v^\top J^\top u =
   -\frac{q}{s^2} \bigl[ \alpha u + \beta\, (v - \bar v) - [B \ne 1]\, \alpha \bar u
   + (s \varphi - 2 q \alpha \beta)\, z \bigr]

with :math:`\alpha = z^\top v`, :math:`\beta = y^\top u` and :math:`\varphi = v^\top J^\top u`. So each is, row by row,
a sum of u, v, z and a constant; the factors are made of sums in float64, the terms have the type of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from acutance.model.many_classes import RowByRow, blocks_of_rows

NormScale = Literal["paper", "released"]
FLOOR = 1e-10  # the released code's smallest divisor


def normalized(logits: Tensor, scale: NormScale) -> Tensor:
    """Return normalized logits, (..., K), by automatic differentiation in the type of the logits."""
    if scale == "released":
        centred = logits - logits.mean(dim=-1, keepdim=True)
        squared = centred.square().sum(dim=-1, keepdim=True)
        # sqrt has no derivative at 0; below the floor the divisor is a constant.
        small = squared <= FLOOR**2
        return centred / squared.masked_fill(small, 1.0).sqrt().masked_fill(small, FLOOR)
    variance = logits.var(dim=-1, correction=0, keepdim=True)
    constant = variance == 0
    return torch.where(constant, logits, logits / variance.masked_fill(constant, 1.0).sqrt())


@dataclass(frozen=True)
class Rows:
    """What is known of each row, (rows,) float64.

    Attributes:
        mean: of the logits.
        inverse: 1 / s; 1 or 1 / floor where all logits are the same.
        q: as above; 0 where the divisor is a constant.
        paper: whether B is the identity.
    """

    mean: Tensor
    inverse: Tensor
    q: Tensor
    paper: bool

    def at(self, rows: slice) -> Rows:
        """Return what is known of some rows."""
        return Rows(self.mean[rows], self.inverse[rows], self.q[rows], self.paper)

    def unit(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return z with the mean as the block's type has it, and what is missing of it: z is the one less the other."""
        near = self.mean.to(block)
        return (block - near[:, None]).mul_(self.inverse[:, None].to(block)), (self.mean - near) * self.inverse

    def push(self, block: Tensor, v: Tensor, out: Tensor) -> None:
        """Write J v."""
        z, rest = self.unit(block)
        total = v.sum(1, dtype=torch.float64)
        on = -self.q * self.inverse * (_dot(z, v) - rest * total)
        constant = on * (self._shift() - rest)
        if not self.paper:
            constant = constant - self.inverse * total / block.shape[1]
        _sum(out, constant, (v, self.inverse), (z, on))

    def pull(self, block: Tensor, u: Tensor, out: Tensor) -> None:
        """Write J^T u."""
        z, rest = self.unit(block)
        total = u.sum(1, dtype=torch.float64)
        on = -self.q * self.inverse * self._along_y(z, rest, u, total)
        constant = -on * rest
        if not self.paper:
            constant = constant - self.inverse * total / block.shape[1]
        _sum(out, constant, (u, self.inverse), (z, on))

    def bend(self, block: Tensor, u: Tensor, v: Tensor, out: Tensor) -> None:
        """Write the gradient of v^T J^T u in the logits."""
        z, rest = self.unit(block)
        of_u, of_v = u.sum(1, dtype=torch.float64), v.sum(1, dtype=torch.float64)
        alpha, beta = _dot(z, v) - rest * of_v, self._along_y(z, rest, u, of_u)
        both = _dot(u, v) if self.paper else _dot(u, v) - of_u * of_v / block.shape[1]
        factor = -self.q * self.inverse.square()
        on = factor * (both - 3 * self.q * alpha * beta)  # s phi is (B u) v less q alpha beta
        constant = -factor * beta * of_v / block.shape[1] - on * rest
        if not self.paper:
            constant = constant - factor * alpha * of_u / block.shape[1]
        _sum(out, constant, (u, factor * alpha), (v, factor * beta), (z, on))

    def _shift(self) -> Tensor | float:
        """Return y less z."""
        return self.mean * self.inverse if self.paper else 0.0

    def _along_y(self, z: Tensor, rest: Tensor, u: Tensor, total: Tensor) -> Tensor:
        """Return y^T u."""
        return _dot(z, u) + (self._shift() - rest) * total


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1, dtype=torch.float64)


def _sum(out: Tensor, constant: Tensor, *terms: tuple[Tensor, Tensor]) -> None:
    """Write the sum over (block, factor of each row), and a constant of each row."""
    (first, factor), *others = terms
    torch.mul(first, factor[:, None].to(out), out=out)
    for block, each in others:
        out.addcmul_(block, each[:, None].to(out))
    out += constant[:, None].to(out)


def normalize_rows(logits: Tensor, scale: NormScale) -> tuple[Tensor, Rows]:
    """Return normalized logits, (rows, K), differentiable, and what is known of each row."""
    y, mean, inverse, q = _Normalized.apply(logits, scale)
    return y, Rows(mean, inverse, q, scale == "paper")


class _Normalized(RowByRow):
    """(logits, scale) -> (normalized logits, and of each row mean, 1/s, q in float64)."""

    @staticmethod
    def forward(logits: Tensor, scale: NormScale) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (n, classes), paper = logits.shape, scale == "paper"
        y = torch.empty_like(logits)
        mean, inverse, q = torch.empty(3, n, dtype=torch.float64, device=logits.device).unbind()
        for rows in blocks_of_rows(n, classes):
            block = logits[rows]
            low, high = (x.double() for x in block.aminmax(dim=1))
            same = low == high
            mean[rows] = centre = torch.where(same, low, block.sum(1, dtype=torch.float64) / classes)
            # Squares of numbers of size 1: those of the logits may be too large or too small for their type.
            size = torch.maximum(high - centre, centre - low).to(block).masked_fill_(same, 1.0)
            near = centre.to(block)
            d = (block - near[:, None]).div_(size[:, None])
            rest, size = (centre - near) / size, size.double()
            length = size * (_dot(d, d) - classes * rest.square()).clamp_min_(0).sqrt_()
            fixed = same if paper else length <= FLOOR
            spread = (length / classes**0.5 if paper else length).masked_fill_(fixed, 1.0 if paper else FLOOR)
            inverse[rows], q[rows] = 1 / spread, (~fixed).double() / (classes if paper else 1)
            if paper:
                torch.mul(block, inverse[rows, None].to(block), out=y[rows])
            else:
                factor = size / spread
                _sum(y[rows], -factor * rest, (d, factor))
        return y, mean, inverse, q

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, NormScale], output: tuple[Tensor, ...]) -> None:
        ctx.scale = inputs[1]
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, u: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        pulled: Tensor = _Pulled.apply(*ctx.saved_tensors, u, ctx.scale)
        return pulled, None


class _Pulled(RowByRow):
    """(logits, mean, 1/s, q, u, scale) -> J^T u."""

    @staticmethod
    def forward(logits: Tensor, mean: Tensor, inverse: Tensor, q: Tensor, u: Tensor, scale: NormScale) -> Tensor:
        out, known = torch.empty_like(logits), Rows(mean, inverse, q, scale == "paper")
        for rows in blocks_of_rows(*logits.shape):
            known.at(rows).pull(logits[rows], u[rows], out[rows])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.scale = inputs[-1]
        ctx.save_for_backward(*inputs[:-1])

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None, Tensor, None]:
        logits, mean, inverse, q, u = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative may be asked for: written so that it can be had, at its price
            bent, pushed = _differentiably(logits, u, v, ctx.scale)
            return bent, None, None, None, pushed, None
        bent, pushed = torch.empty_like(logits), torch.empty_like(logits)
        known = Rows(mean, inverse, q, ctx.scale == "paper")
        for rows in blocks_of_rows(*logits.shape):
            at = known.at(rows)
            at.bend(logits[rows], u[rows], v[rows], bent[rows])
            at.push(logits[rows], v[rows], pushed[rows])
        return bent, None, None, None, pushed, None


def _differentiably(logits: Tensor, u: Tensor, v: Tensor, scale: NormScale) -> tuple[Tensor, Tensor]:
    """Return the gradients of v^T J^T u in the logits and in u, with their graphs."""
    f, along = (x.double() if x.requires_grad else x.double().detach().requires_grad_() for x in (logits, u))
    (pulled,) = torch.autograd.grad(normalized(f, scale), f, along, create_graph=True)
    bent, pushed = torch.autograd.grad(pulled, (f, along), v.double(), create_graph=True, materialize_grads=True)
    return bent.to(logits), pushed.to(u)
