r"""Worst-case twins of PAC-Bayes flatness: how far the weights may be moved in any direction before the accuracy drops.

The worst direction is looked for by projected ascent of the loss (Auto-PGD from the weights themselves). It may miss
points of the box where more examples are wrong: a radius is an upper estimate of the largest safe one. The members of
the family share one search.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from acutance.measure import Cost, Traits
from acutance.spec import estimation, labelled
from acutance_classic.search import Found, ScaleMeasure, ScaleSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SOURCE = Traits(
    level="dataset", needs={"weights", "data", "gradient"}, symbol="1/α²", reference="Jiang et al. 2020",
    bibtex=("jiang2020fantastic", "keskar2017large"),
)  # fmt: skip


class RadiusSpec(ScaleSpec):
    """Settings of a search for the largest box that keeps the accuracy."""

    deviation: Annotated[float, Field(gt=0, lt=1), labelled(adds=", drop {deviation}")] = 0.1
    """By how much the accuracy may drop."""
    steps: Annotated[PositiveInt, estimation()] = 20
    """Steps of the ascent at each radius."""
    smallest: Annotated[PositiveFloat, estimation()] = 1e-7
    """The smallest radius that is tried."""
    largest: Annotated[PositiveFloat, estimation()] = 10.0
    """The largest radius that is tried."""


class MagnitudeRadiusSpec(RadiusSpec):
    """The same for a box in proportion to each weight."""

    eps: Annotated[NonNegativeFloat, labelled(adds=", ε = {eps}")] = 1e-3
    """How far a weight of zero may move, and every weight besides."""


RadiusT = TypeVar("RadiusT", bound=RadiusSpec)


class RadiusMeasure(ScaleMeasure[RadiusT]):
    """A function of the largest radius that keeps the accuracy."""

    scale = "alpha"

    def search(self, surface: LossSurface, spec: RadiusT, rng: Streams) -> Found:
        """Return the largest radius."""
        from acutance_classic.ascent import steady_radius

        return steady_radius(surface, spec, getattr(spec, "eps", None))

    def passes(self, spec: RadiusT) -> Cost:
        """At most: an ascent ends where the accuracy has dropped; the extras say at how many points it was seen."""
        return Cost(forwards=spec.tries * spec.steps + 1, backwards=spec.tries * (spec.steps - 1) + 1)

    def vectors(self, spec: RadiusT) -> int:
        """Those of worst-case search: gradient at w*, gradient, three iterates and the moved weights; the box."""
        return 6 + hasattr(spec, "eps")


class SharpnessFlatness(RadiusMeasure[RadiusSpec]):
    r"""Inverse squared radius of the box in which the accuracy is kept.

    .. math:: 1/\alpha^2, \qquad \alpha = \max\{\alpha:
       \max_{\|u\|_\infty \le \alpha} \mathrm{acc}(w) - \mathrm{acc}(w + u) \le \text{deviation}\}
    """

    name = "sharpness_flatness"
    traits = replace(SOURCE, label="sharpness flatness")

    def value(self, surface: LossSurface, spec: RadiusSpec, scale: float) -> float:
        """Return the inverse square."""
        return scale**-2


class SharpnessMagnitudeFlatness(RadiusMeasure[MagnitudeRadiusSpec]):
    r"""Inverse squared radius, in units of each weight, of the box in which the accuracy is kept.

    .. math:: 1/\alpha'^2, \qquad |u_i| \le \alpha' |w_i| + \epsilon
    """

    name = "sharpness_magnitude_flatness"
    traits = replace(SOURCE, symbol="1/α'²", label="magnitude-aware sharpness flatness")

    def value(self, surface: LossSurface, spec: MagnitudeRadiusSpec, scale: float) -> float:
        """Return the inverse square."""
        return scale**-2


class SharpnessOrig(RadiusMeasure[RadiusSpec]):
    r"""Bound by the radius of the box in which the accuracy is kept, with a prior at zero.

    .. math:: \mu = \frac{\|w\|_2^2 \log(2\omega)}{4 \alpha^2} + \log\frac{m}{\alpha} + 10

    with :math:`\omega` the number of free parameters, as printed in Jiang et al. (2020), and m = ``surface.num_train``:
    the size of the study's split, ``num_train`` of ``acutance.measure``, ``--num-train``; the number of points where
    none is given. :math:`\sigma = \alpha / \sqrt{2 \log 2\omega}` in the bound of ``pacbayes_orig`` would give twice
    the first term.
    """

    name = "sharpness_orig"
    traits = replace(SOURCE, larger_means="larger bound", symbol="μ", label="sharpness bound from zero")

    def value(self, surface: LossSurface, spec: RadiusSpec, scale: float) -> float:
        """Return the complexity."""
        return _complexity(float(surface.w.double().square().sum()), surface, scale)


class SharpnessInit(RadiusMeasure[RadiusSpec]):
    r"""Bound by the radius of the box in which the accuracy is kept, with a prior at the initial weights.

    .. math:: \mu = \frac{\|w - w_0\|_2^2 \log(2\omega)}{4 \alpha^2} + \log\frac{m}{\alpha} + 10
    """

    name = "sharpness_init"
    traits = replace(
        SOURCE, larger_means="larger bound", needs={*SOURCE.needs, "initial_weights"}, symbol="μ",
        label="sharpness bound from initialization",
    )  # fmt: skip

    def value(self, surface: LossSurface, spec: RadiusSpec, scale: float) -> float:
        """Return the complexity."""
        return _complexity(float((surface.w.double() - surface.w0.double()).square().sum()), surface, scale)


def _complexity(squared: float, surface: LossSurface, alpha: float) -> float:
    return squared * math.log(2 * surface.w.numel()) / (4 * alpha**2) + math.log(surface.num_train / alpha) + 10
