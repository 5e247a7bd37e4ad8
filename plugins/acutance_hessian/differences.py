r"""Products with the Hessian by central differences of the gradient, with a step that is tried out first.

.. math:: H v \approx \frac{\nabla L(w + h v) - \nabla L(w - h v)}{2 h}

The step is a compromise between the curvature of the gradient and rounding, which no formula knows beforehand. So
the first product is made at several steps, and the one is taken at which two neighbours agree best. How well they agree
is the reported error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.numerics.basis import NonFiniteProduct
from acutance.numerics.slopes import scaled
from acutance.numerics.units import Units
from acutance.surface import LossSurface

# Lengths h |v|, as shares of |w|, from where the gradient bends to where it drowns in rounding.
STEPS = tuple(10 ** (-exponent / 2) for exponent in range(2, 12))
UNUSABLE = 0.1  # relative error of a product that says nothing any more


@dataclass(frozen=True)
class Step:
    """The length of the differences, and the relative error of a product at it."""

    length: float
    error: float


class Differences:
    r"""The operator :math:`D_c H D_c`, by differences.

    Args:
        view: the surface.
        c: (p,), a vector or made block by block, or None for ones.
    """

    def __init__(self, view: LossSurface, c: Tensor | Units | None) -> None:
        self._point, self._c = view.moving_point(c), c
        norm = float(torch.linalg.vector_norm(view.w, dtype=torch.float64))
        self._lengths = [share * (norm or 1.0) for share in STEPS]

    def product(self, x: Tensor, length: float) -> Tensor:
        """Return the product with x, (p,), where the weights move by this length on either side."""
        norm = float(torch.linalg.vector_norm(x if self._c is None else scaled(x, self._c), dtype=torch.float64))
        if norm == 0:
            return torch.zeros_like(x)
        h = length / norm
        product = self._point.move(x, h).gradient().gradient
        assert product is not None
        start = 0
        for part in self._point.move(x, -h).slope()[-1]:  # in parts: they are put together nowhere
            product[start : start + len(part)].sub_(part)
            start += len(part)
        product.div_(2 * h)
        return product if self._c is None else scaled(product, self._c, out=product)

    def choose(self, x: Tensor) -> Step:
        """Return the step at which the product with x, (p,), changes least.

        Raises:
            NonFiniteProduct: when no step gives a finite product.
        """
        best, before = Step(self._lengths[0], math.inf), self.product(x, self._lengths[0])
        for length in self._lengths[1:]:
            product = self.product(x, length)
            size = float(torch.linalg.vector_norm(product, dtype=torch.float64))
            change = float(torch.linalg.vector_norm(before.sub_(product), dtype=torch.float64))
            error = change / size if size > 0 else (0.0 if change == 0 else math.inf)
            if math.isfinite(error) and error < best.error:
                best = Step(length, error)
            before = product
        if math.isinf(best.error):
            raise NonFiniteProduct
        return best
