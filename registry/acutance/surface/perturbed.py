"""The loss around w* as a function that searches ask for its values and slopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from acutance.model.derivatives import OverwrittenError
from acutance.numerics.scalars import Scalar, scalar
from acutance.numerics.slopes import Slope
from acutance.numerics.units import Units
from acutance.numerics.walks import Destination
from acutance.surface.moving_point import MovingPoint, moving_point

if TYPE_CHECKING:
    from acutance.model.exchange import Exchange
    from acutance.surface.loss_surface import LossSurface


class Perturbed:
    r"""The loss as a function of :math:`\gamma`, as searches ask for it: :math:`F(\gamma) = L_S(w^* + c \odot \gamma)`.

    The gradient in these coordinates is :math:`c \odot \nabla L_S`, which vanishes where c does: such
    coordinates never move.

    Args:
        surface: whose loss.
        c: (p,) scaling, a vector or made block by block; None for ones.
    """

    def __init__(self, surface: LossSurface, c: Tensor | Units | None) -> None:
        self.surface, self.c = surface, c
        surface.check()
        surface.core.examined()  # before a search holds its vectors
        self._point = moving_point(surface, c)
        self.destination = Destination(surface.w, c, self._point.w)

    def held(self) -> Exchange:
        """Return a context in which passes are cheapest: the model holds the perturbed weights all along."""
        return self._point.held()

    def gradient(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient."""
        loss, raw, parts = self._at(x).slope()
        return scalar(loss), raw, Slope(parts, self.c)

    def passing(self, x: Tensor) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient, which lasts no longer than until the next pass: it may lie in the point."""
        try:
            loss, raw, parts = self._at(x).passing_slope()
        except OverwrittenError:
            loss, raw, parts = self._point.move(x).slope()
        return scalar(loss), raw, Slope(parts, self.c)

    def value(self, x: Tensor) -> tuple[Scalar, Tensor]:
        """Return loss and logits."""
        evaluation = self._at(x).value()
        return scalar(evaluation.loss), evaluation.note

    def _at(self, x: Tensor) -> MovingPoint:
        """Return the point of x, moved unless whoever made x has put it there."""
        return self._point if self.destination.taken(x) else self._point.move(x)

    def origin(self) -> tuple[Scalar, Tensor, Slope]:
        """Return loss, logits and gradient at w*, from the one pass that all specs share."""
        evaluation = self.surface.clean_gradient()
        assert evaluation.gradient is not None
        return scalar(evaluation.loss), evaluation.note, Slope([evaluation.gradient], self.c)
