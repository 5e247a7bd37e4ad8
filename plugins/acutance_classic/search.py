"""Largest scales of a perturbation, by bisection."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import PositiveFloat, model_validator

from acutance.measure import Estimate, Measure, Status
from acutance.spec import Spec, estimation
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class RangeSpec(Spec):
    """Where a scale is looked for, and how closely."""

    smallest: Annotated[PositiveFloat, estimation()] = 1e-6
    """The smallest scale that is tried."""
    largest: Annotated[PositiveFloat, estimation()] = 100.0
    """The largest scale that is tried."""
    rtol: Annotated[PositiveFloat, estimation()] = 0.01
    """By how much of itself the scale may be below the limit."""

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.smallest < self.largest:
            raise ValueError(f"smallest: {self.smallest:g} is not below largest, {self.largest:g}")
        return self

    @property
    def tries(self) -> int:
        """At how many scales a search tries the perturbation: the ends of the range, and bisection."""
        width = math.log(self.largest / self.smallest) / math.log1p(self.rtol)
        return 2 + max(math.ceil(math.log2(width)), 0)


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        scale: the largest scale that was tried and is within the limit; NaN where there is none.
        reason: why there is none, in one sentence.
        extras: what a reader may want besides, JSON values.
    """

    scale: float
    reason: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self, value: Callable[[float], float], **extras: float) -> Estimate:
        """Return a function of the scale; not converged, with the reason, where no scale was found."""
        if self.reason:
            return Estimate(math.nan, None, Status.NOT_CONVERGED, self.reason, extras=self.extras)
        return Estimate(value(self.scale), extras={**self.extras, **extras})


def bisect(within: Callable[[float], bool], spec: RangeSpec, what: str) -> Found:
    """Return the largest scale of the range that is within a limit, by bisection of its logarithm.

    It is below the crossing of the limit by at most ``rtol`` of itself; where there are several crossings it is at one
    of them. All models are tried at scales of one grid, so that noise which they share meets them at the same scales.

    Args:
        within: whether a scale is within the limit.
        spec: the range.
        what: what the limit is for, as the subject of a sentence.
    """
    low, high = spec.smallest, spec.largest
    if not within(low):
        return Found(math.nan, f"{what} leaves its limit at the smallest scale already: take smallest below {low:g}")
    if within(high):
        return Found(math.nan, f"{what} is within its limit at the largest scale still: take largest above {high:g}")
    for _ in range(spec.tries - 2):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if within(middle) else (low, middle)
    return Found(low)


class ScaleSpec(PartSpec, RangeSpec):
    """Settings of a search for the largest scale of a perturbation of some of the parameters."""


ScaleT = TypeVar("ScaleT", bound=ScaleSpec)


class ScaleMeasure(Measure[ScaleT]):
    """A function of the largest scale of a perturbation that keeps a limit.

    Attributes:
        scale: what the extras call it.
    """

    scale: ClassVar[str]

    @abstractmethod
    def search(self, surface: LossSurface, spec: ScaleT, rng: Streams) -> Found:
        """Return the largest scale, which the members of a family share."""

    @abstractmethod
    def value(self, surface: LossSurface, spec: ScaleT, scale: float) -> float:
        """Return the value for a scale, of the free part of a surface."""

    def evaluate(self, surface: LossSurface, spec: ScaleT, rng: Streams) -> Estimate:
        """Return the value at the largest scale that was found."""
        part = surface.restricted(spec.parameters)
        if "initial_weights" in self.needs(spec):
            _ = part.w0  # unsupported before the search, where they are not known
        found = self.search(surface, spec, rng)
        return found.estimate(lambda scale: self.value(part, spec, scale), **{self.scale: found.scale})
