"""The part of a surface that moves weights where they lie, and knows what their rounding does to the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from acutance.errors import UserError
from acutance.measure import Estimate, Status
from acutance.model.parameters import Parameters
from acutance.model.weights import EXACT, LARGE
from acutance.numerics.draws import Streams
from acutance.numerics.rounding import ready
from acutance.surface.core import Core, Evaluation
from acutance.surface.gradient_apart import exact_sketch, gradient_apart, gradient_rounding
from acutance.surface.moving_point import MovingPoint
from acutance.surface.pieces import Apart, Blocks, Segment, held, placed, segments
from acutance.surface.piecewise import PiecewisePoint

if TYPE_CHECKING:
    from acutance.scaling import PieceUnits
    from acutance.surface.gradient_apart import Sketch
    from acutance.surface.loss_surface import LossSurface

ROUNDINGS = 2  # of all weights at random, of which the resolution of the loss is made
TWELFTH = 1 / 12  # of the weights move in one, which gives each the variance of its rounding error
LEAST = 16  # moves of weights in all of them, where there are few weights: none at all would say that nothing is lost
DITHERED = 3  # by how much the variance of a weight that is rounded at random exceeds that of a rounding error at most
UNSURE = 0.1  # of a gradient, that rounding may change
CLEAR, CLEAR_DITHERED = 10, 5  # resolutions above which a rise is trusted: rounding alone raises the loss by about one


class InPlace:
    """The part of a surface that holds no vectors: points piece by piece, and the resolution of rounded weights."""

    core: Core
    parameters: Parameters
    clean: Callable[[], Evaluation]
    loss_of: Callable[[Tensor], Tensor]
    raw_logits: Callable[[], Tensor]
    still_point: Callable[[], MovingPoint]
    memo: Callable[[Hashable, Callable[[], Any]], Any]

    @property
    def size(self) -> int:
        """Number of free parameters, p."""
        raise NotImplementedError

    @property
    def moves_in_place(self) -> bool:
        """Whether points are best moved piece by piece, since vectors of all weights would be too large or coarse."""
        weights = self.core.functional.weights
        return weights.native or (weights.own and self.size >= LARGE)

    def piecewise_point(self, units: PieceUnits | None = None) -> PiecewisePoint:
        r"""Return a point :math:`w^* + s\, c \odot x` of which nothing is held but the weights that it moves.

        Args:
            units: c, as of ``acutance.scaling.units``; ones by default.

        Raises:
            UserError: where w* is a copy of the model's own tensors.
        """
        if not self.core.functional.weights.own:
            raise UserError("this surface has a vector of its weights", "take moving_point, or dtype native")
        if self.is_rounded:
            ready()
        return PiecewisePoint(cast("LossSurface", self), units)

    def segments(self, x: Blocks) -> Iterator[Segment]:
        """Yield x parameter by parameter; of a sharded model what this process holds of it.

        Args:
            x: (p,).
        """
        portion = self.core.functional.portion(self.parameters.free)
        if portion is not None and isinstance(x, Apart):
            return placed(segments(x.blocks(), portion.sizes), portion)
        whole = segments(x.blocks(), self.parameters.sizes)
        return whole if portion is None else held(whole, portion)

    def summed(self, values: Tensor) -> Tensor:
        """Return what was summed over what this process holds of each free parameter, summed over all processes.

        Args:
            values: (k, ...) on the CPU, a row for each free parameter; returned as they are where nothing is sharded.
        """
        portion = self.core.functional.portion(self.parameters.free)
        return values if portion is None else portion.summed(values)

    def update_apart(self) -> Apart | None:
        """Return the step that the optimizer would take next, a part for each free parameter, beside native weights.

        None where it is not known, or ``update`` gives it as a vector.
        """
        step = self.core.functional.update_step
        if step is not None and self.core.functional.sharded is not None:
            self.core.functional.weights.refuse_spread()
        return None if not isinstance(step, list) else Apart([step[i] for i in self.parameters.free])

    @property
    def in_parts(self) -> bool:
        """Whether a gradient is a part for each parameter, in its type, since weights are in their own types."""
        return self.core.functional.weights.native

    def gradient_apart(self, units: PieceUnits | None = None) -> Apart:
        """Return c times the gradient at w* beside native weights; the gradient is computed once for this surface.

        Args:
            units: c; ones by default.
        """
        self._exact_sketch(units)  # whose copy of the weights is let go before there is a gradient
        found: Apart = self.memo("gradient_apart", lambda: gradient_apart(cast("LossSurface", self)))
        return found.in_units(units)

    def _exact_sketch(self, units: PieceUnits | None) -> Sketch | None:
        if not self.is_rounded:
            return None
        found: Sketch = self.memo(("exact_sketch", units), lambda: exact_sketch(cast("LossSurface", self), units))
        return found

    @property
    def dither(self) -> Streams:
        """How weights in half precision are rounded at random, where a gradient moves them."""
        return Streams("rounding of moves")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, the coarsest where they have several."""
        return self.core.functional.dtype

    @property
    def is_rounded(self) -> bool:
        """Whether weights have a half-precision type, in which many a move is lost or becomes another."""
        return self.dtype not in EXACT

    def rounding(self) -> Tensor:
        r"""Return by how much coarse arithmetic or coarse weights move the loss, 0-d: rises below that mean nothing.

        With a coarser ``arithmetic`` it is the difference to the loss at w* in the exact one. With weights in half
        precision, root mean square of :math:`L(w^* + e) - L(w^*)`, where e moves each weight to one of its two
        neighbours with probability 1/24 each: it has the mean and variance of a rounding error, which is uniform within
        half a unit in the last place, and every w* + e can be represented.

        Zero, and no pass, where all is exact; else n forwards, or 2 n for weights, once; more for less than 96 weights.
        """
        core = self.core
        if self.is_rounded:
            value: Tensor = self.memo("rounding", self._rounded)
            return value
        if core.arithmetic == "exact":
            return torch.zeros((), dtype=torch.float64)
        clean = self.clean().loss
        if not core.keeps_logits:
            exact: Tensor = self.memo("exact_loss", lambda: self._exactly(lambda: self.still_point().value().loss))
            return (clean - exact).abs()
        if core.known.exact_logits is None:
            core.known.exact_logits = self._exactly(self.raw_logits)
        return (clean - self.loss_of(core.known.exact_logits)).abs()

    def _exactly(self, make: Callable[[], Tensor]) -> Tensor:
        """Return what passes in the exact arithmetic give."""
        core = self.core
        coarse, core.arithmetic = core.arithmetic, "exact"
        try:
            return make()
        finally:
            core.arithmetic = coarse

    @torch.no_grad()
    def _rounded(self) -> Tensor:
        clean, point, streams = self.clean().loss, self.piecewise_point(), Streams("rounding of weights")
        losses = []
        with point.held():
            for k in range(max(ROUNDINGS, math.ceil(LEAST / TWELFTH / self.size))):
                point.to_neighbours(streams.child(k), TWELFTH)
                losses.append(point.value().loss)
        return (torch.stack(losses) - clean).square().mean().sqrt()

    def against_gradient_rounding(self, estimate: Estimate, units: PieceUnits | None = None) -> Estimate:
        """Return an estimate with what rounding does to the gradient beside it; the status says if that is too much.

        Nothing is done, and no pass made, for weights in float32 or float64.

        Args:
            estimate: of a number that follows from the gradient.
            units: c of the coordinates in which the gradient is taken.
        """
        exact = self._exact_sketch(units)
        if exact is None or estimate.status is not Status.OK:
            return estimate
        gradient = self.gradient_apart(units)
        share: float = self.memo(("gradient_rounding", units), lambda: gradient_rounding(gradient, exact))
        found = replace(estimate, extras={**estimate.extras, "gradient_rounding": share})
        if share <= UNSURE:
            return found
        kind = str(self.dtype).removeprefix("torch.")
        return replace(
            found,
            status=Status.NOT_CONVERGED,
            message=f"rounding in {kind} changes the gradient by {share:.2g} of its length (examples that cancel, or "
            "long sums made in that type: a smaller microbatch shortens these); take dtype float32",
        )

    def against_rounding(self, estimate: Estimate, rise: float, dithered: bool = False) -> Estimate:
        """Return an estimate of a rise of the loss with the resolution beside it; the status says if it is lost.

        Nothing is done, and no pass made, for weights in float32 or float64.

        Args:
            estimate: with status ok.
            rise: of the loss, that it is made of.
            dithered: whether the moved weights were rounded at random, which three times the resolution covers.

        Rounding the weights that moved raises the loss by itself, however many draws there are: where it is curved the
        mean of the rise is off by about the resolution. So a rise has to be several times larger.
        """
        if not self.is_rounded or estimate.status is not Status.OK:
            return estimate
        least = float(self.rounding()) * (DITHERED if dithered else 1)
        found = replace(estimate, extras={**estimate.extras, "rounding": least})
        clear = CLEAR_DITHERED if dithered else CLEAR
        if abs(rise) > clear * least:
            return found
        kind = str(self.dtype).removeprefix("torch.")
        return replace(
            found,
            status=Status.NOT_CONVERGED,
            message=f"the loss moves by {rise:.2g}, and rounding of the weights in {kind} alone moves it by up to "
            f"{least:.2g}, of which it has to be {clear} times: take a larger radius, or dtype float32",
        )
