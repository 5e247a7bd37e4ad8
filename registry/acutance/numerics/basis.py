"""Orthonormal vectors that are grown one by one: what Lanczos, Hutch++ and XTrace keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from acutance.numerics.slopes import BLOCK

ROWS = 32  # small vectors are kept in blocks of so many, so that a projection is one matrix product
NO_LOSS = 0.7  # a projection that leaves this share of a vector lost no digits (Daniel, Gragg, Kaufman, Stewart 1976)


class NonFiniteProduct(ArithmeticError):
    """A product with the operator has an infinite or undefined entry."""


def length(x: Tensor) -> float:
    """Return the Euclidean norm of x, (p,), on the host.

    Raises:
        NonFiniteProduct: when it is not finite.
    """
    norm = float(torch.linalg.vector_norm(x))
    if not math.isfinite(norm):
        raise NonFiniteProduct
    return norm


class Basis:
    """An orthonormal basis in R^p; each vector is held once.

    Args:
        like: a vector, (p,), of the dtype and on the device of the others.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like.new_empty(0)
        self._p = like.numel()
        self._rows = max(1, min(ROWS, BLOCK // (4 * max(self._p, 1))))
        self._blocks: list[Tensor] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Tensor:
        """Return vector i, (p,): a view."""
        return self._blocks[i // self._rows][i % self._rows]

    def _filled(self) -> list[Tensor]:
        filled, remaining = [], self._size
        for block in self._blocks:
            filled.append(block[: min(remaining, self._rows)])
            remaining -= self._rows
        return filled

    def coefficients(self, x: Tensor) -> Tensor:
        r"""Return :math:`Q^\top x`, (k,) in double precision on the host, for x, (p,)."""
        parts = [torch.mv(block, x) for block in self._filled()]
        return torch.cat(parts).double().cpu() if parts else torch.empty(0, dtype=torch.float64)

    def subtract(self, x: Tensor, coefficients: Tensor) -> None:
        """Take Q c away from x, (p,), in place, c being (k,)."""
        c = coefficients.to(x)
        for i, block in enumerate(self._filled()):
            x.addmv_(block.T, c[i * self._rows : i * self._rows + len(block)], alpha=-1)

    def insert(self, x: Tensor) -> tuple[Tensor, float]:
        r"""Add the direction of x, (p,), that is new: :math:`x = Q c + r q`, q the next vector.

        The projection is repeated where it cancelled digits, so the basis is orthonormal to rounding.

        Args:
            x: overwritten.

        Returns:
            c, (k,) in double precision, and r; 0 where x brought nothing new, and then nothing is added.

        Raises:
            NonFiniteProduct: when x is not finite.
        """
        first = before = length(x)
        c = torch.zeros(self._size, dtype=torch.float64)
        smallest = 10 * torch.finfo(x.dtype).eps * first
        if first == 0 or self._size >= self._p:
            return self.coefficients(x), 0.0
        while self._size:
            projection = self.coefficients(x)
            self.subtract(x, projection)
            c += projection
            after = length(x)
            if after <= smallest:
                return c, 0.0
            if after > NO_LOSS * before:
                before = after
                break
            before = after
        self._append(x, before)
        return c, before

    def _append(self, x: Tensor, norm: float) -> None:
        if self._size == len(self._blocks) * self._rows:
            self._blocks.append(x.new_empty(self._rows, self._p))
        torch.div(x, norm, out=self._blocks[-1][self._size % self._rows])
        self._size += 1
