r"""PAC-Bayes flatness: how much noise the weights bear before the accuracy changes.

The largest standard deviation is searched by bisection, on noise that is the same at every scale and for every model.
The members of the family share one search. Batch normalization is not folded into convolutions: its gains move like
other parameters, and ``parameters`` takes them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from acutance.measure import Cost, Traits
from acutance.spec import estimation, labelled
from acutance_classic.search import Found, ScaleMeasure, ScaleSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class DeviationSpec(ScaleSpec):
    """Settings of a search for the largest noise that leaves the accuracy where it is."""

    deviation: Annotated[float, Field(gt=0, lt=1), labelled(adds=", deviation {deviation}")] = 0.1
    """By how much the accuracy may change, up or down, in the mean over the draws."""
    draws: Annotated[PositiveInt, estimation()] = 10
    """Number of noises, the same at every scale."""


class MagnitudeSpec(DeviationSpec):
    """The same for noise in proportion to each weight."""

    eps: Annotated[NonNegativeFloat, labelled(adds=", ε = {eps}")] = 1e-3
    """Standard deviation of the noise that a weight of zero gets."""


DeviationT = TypeVar("DeviationT", bound=DeviationSpec)


class NoiseMeasure(ScaleMeasure[DeviationT]):
    """A function of the largest standard deviation that leaves the accuracy where it is."""

    scale = "sigma"

    def search(self, surface: LossSurface, spec: DeviationT, rng: Streams) -> Found:
        """Return the largest standard deviation."""
        from acutance_classic.noise import steady_noise

        return steady_noise(surface, spec, getattr(spec, "eps", None), rng)

    def passes(self, spec: DeviationT) -> Cost:
        """At most: a scale is given up as soon as the draws so far exceed the limit; the extras say what was made."""
        return Cost(forwards=spec.tries * spec.draws + 1)

    def vectors(self, spec: DeviationT) -> int:
        """The noise, the moved weights, and the deviations of each."""
        return 2 + hasattr(spec, "eps")


class PacBayesFlatness(NoiseMeasure[DeviationSpec]):
    r"""Inverse squared noise that the accuracy bears.

    .. math:: 1/\sigma^2, \qquad \sigma = \max\{\sigma: E_{u \sim N(0, \sigma^2 I)}
       |\mathrm{acc}(w) - \mathrm{acc}(w + u)| \le \text{deviation}\}

    (Neyshabur et al. 2017; Jiang et al. 2020). The code of Dziugaite et al. (2020) draws noise of standard deviation
    :math:`\sigma^2`, so that its values are those of another :math:`\sigma`.
    """

    name = "pacbayes_flatness"
    traits = Traits(
        level="dataset", needs={"weights", "data"}, stochastic=True, invariant_to={"translation"}, symbol="1/σ²",
        label="PAC-Bayes flatness", reference="Jiang et al. 2020",
        bibtex=("jiang2020fantastic", "neyshabur2017exploring"),
    )  # fmt: skip

    def value(self, surface: LossSurface, spec: DeviationSpec, scale: float) -> float:
        """Return the inverse square."""
        return scale**-2


class PacBayesMagnitudeFlatness(NoiseMeasure[MagnitudeSpec]):
    r"""Inverse squared noise, in units of each weight, that the accuracy bears.

    .. math:: 1/\sigma'^2, \qquad u_i \sim N(0, \sigma'^2 w_i^2 + \epsilon^2)

    with :math:`\sigma'` the largest that changes the accuracy by no more than ``deviation`` (Jiang et al. 2020). With
    ``eps: 0`` it does not change when layers are rescaled; above that it nearly does not.
    """

    name = "pacbayes_magnitude_flatness"
    traits = Traits(
        level="dataset", needs={"weights", "data"}, stochastic=True, symbol="1/σ'²",
        label="magnitude-aware PAC-Bayes flatness", reference="Jiang et al. 2020",
        bibtex=("jiang2020fantastic", "neyshabur2017exploring"),
    )  # fmt: skip

    def value(self, surface: LossSurface, spec: MagnitudeSpec, scale: float) -> float:
        """Return the inverse square."""
        return scale**-2
