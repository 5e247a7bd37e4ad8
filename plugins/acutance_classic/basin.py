"""Size of the basin: how far noise may move the weights before the loss or the error rises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveFloat, PositiveInt

from acutance import scaling
from acutance.measure import Cost, Estimate, Measure, SharpnessSpec, Traits
from acutance.spec import estimation, labelled
from acutance_classic.search import RangeSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class BasinSpec(SharpnessSpec, RangeSpec):
    """Settings of the size of the basin."""

    drop: Annotated[PositiveFloat, labelled(adds=", rise {drop}", always=True)] = 0.1
    """By how much the loss or the error may rise in the mean over the noise: how much of the score is given away."""
    of: Annotated[Literal["loss", "error"], labelled(adds=" of the {of}", always=True)] = "loss"
    """What may rise."""
    draws: Annotated[PositiveInt, estimation()] = 20
    """Number of noises, the same at every scale."""


class BasinSize(Measure[BasinSpec]):
    r"""Largest Gaussian noise under which the loss, or the error, rises by no more than a given amount.

    .. math:: \sigma = \max\{\sigma: E_{z \sim N(0, I)} L(w + \sigma c \odot z) - L(w) \le \text{drop}\}

    the radius at which average-case sharpness is ``drop``. For a quadratic at its minimum it is
    :math:`\sqrt{2\, \text{drop} / tr(H \odot cc^\top)}`. By bisection with common random numbers, over all points.
    """

    name = "basin_size"
    traits = Traits(
        level="dataset", larger_means="flatter", needs={"weights", "data"}, stochastic=True, invariant_to={"rescaling"},
        symbol="σ_drop",
        label="{scaling} basin size", reference="Chen et al. 2025, Unveiling the Basin-Like Loss Landscape",
        bibtex=("chen2025unveiling",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: BasinSpec, rng: Streams) -> Estimate:
        """Return the largest standard deviation that was found, in units of c."""
        from acutance_classic.noise import steady_loss

        estimate = steady_loss(surface, spec, rng).estimate(lambda sigma: sigma)
        view = surface.transformed(spec.logit_norm, spec.norm_scale).restricted(spec.parameters)
        found = scaling.resolved(estimate, view, spec.scaling, estimate.value)
        return view.against_rounding(found, spec.drop) if spec.of == "loss" else found

    def passes(self, spec: BasinSpec) -> Cost:
        """At most: a scale is given up as soon as the draws so far exceed the limit; the extras say what was made."""
        return Cost(forwards=spec.tries * spec.draws + 1)

    def vectors(self, spec: BasinSpec) -> int:
        """The noise and the moved weights; c."""
        return 2 + (spec.scaling != "none")
