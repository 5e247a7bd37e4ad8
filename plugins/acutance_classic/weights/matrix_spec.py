"""Settings of measures of weight matrices, and what it takes to put one of them over the margin."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import PositiveInt

from acutance.errors import Unsupported
from acutance.measure import Cost, Level, Measure, Need
from acutance.spec import labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.surface import LossSurface


class MatrixSpec(PartSpec):
    """Settings of a measure of the spectral norms of weight matrices."""

    convolution: Annotated[Literal["matrix", "operator"], labelled(adds=", convolutions as operators")] = "matrix"
    """matrix: the norm of the kernel as (out, -1), which is not that of the map; operator: that of the circular one."""
    size: Annotated[PositiveInt, labelled(adds=", on {size} points")] = 32
    """Points an axis of the periodic grid on which all convolutions act, with convolution: operator."""


class OverMarginSpec(PartSpec):
    """Settings of a measure that may be divided by the margin."""

    margin: Annotated[bool, labelled(adds=" over margin")] = False
    """Divide by the squared margin, the 10th percentile over all points of f_y - max f_k: one forward pass."""


class MatrixOverMarginSpec(MatrixSpec, OverMarginSpec):
    """Settings of a measure of spectral norms that may be divided by the margin."""


SpecT = TypeVar("SpecT", bound=OverMarginSpec)


class OverMargin(Measure[SpecT]):
    """A measure of the weights, which needs the points only where it is divided by the margin."""

    @classmethod
    def level_of(cls, spec: SpecT) -> Level:
        """Return all points where the margin is asked for, else none."""
        return "dataset" if spec.margin else cls.traits.level

    def needs(self, spec: SpecT) -> frozenset[Need]:
        """Return what is read: the points for the margin."""
        return frozenset(self.traits.needs) | (frozenset({"data"}) if spec.margin else frozenset())

    def passes(self, spec: SpecT) -> Cost:
        """Return the pass that gives the logits, where the margin is asked for."""
        return Cost(forwards=1 if spec.margin else 0)

    def shares(self, spec: SpecT) -> Literal["", "logits", "gradient"]:
        """Return the logits, which any measure may have made."""
        return "logits" if spec.margin else ""


def log_margin(surface: LossSurface, wanted: bool) -> float:
    r"""Return :math:`2 \log \gamma`, what the logarithm of a measure loses over the margin; 0 where it is not wanted.

    Raises:
        Unsupported: when the margin is not positive.
    """
    if not wanted:
        return 0.0
    from acutance_classic.margin_numerics import output_margins, percentile

    gamma = percentile(output_margins(surface), 10)
    if gamma <= 0:
        raise Unsupported(
            f"the margin (10th percentile of the output margins) is {gamma:.4g}: a tenth of the points or more is "
            "misfitted, and dividing by it has no meaning"
        )
    return 2 * math.log(gamma)
