r"""Averages over Gaussian noise on the weights: of the loss, of its likelihood, of the error.

The low-pass filter of Bisla et al. (2022), the local entropy of Chaudhari et al. (2017), the local energy of Pittorino
et al. (2021). Every model, width and setting sees the same unit noise: comparisons are sharper than single values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import PositiveFloat, PositiveInt

from acutance.measure import Cost, Estimate, Measure, SharpnessSpec, Traits
from acutance.spec import estimation, labelled
from acutance_classic.flatness.views import ViewSpec
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SpecT = TypeVar("SpecT", "LowPassSpec", "LocalEntropySpec", "LocalEnergySpec")


class Average(Measure[SpecT]):
    """An average over draws; specs that agree on where the draws fall share their forwards."""

    def evaluate(self, surface: LossSurface, spec: SpecT, rng: Streams) -> Estimate:
        """Return the average."""
        return self.evaluate_many(surface, [spec], rng)[0]

    def evaluate_many(self, surface: LossSurface, specs: Sequence[SpecT], rng: Streams) -> list[Estimate]:
        """Return all averages, from one walk over the noise."""
        from acutance_classic.flatness import averages_numerics

        return averages_numerics.averages(self.name, surface, specs, rng)

    def passes(self, spec: SpecT) -> Cost:
        """One forward a draw."""
        return Cost(forwards=spec.draws)


class LowPassSpec(SharpnessSpec):
    """Settings of the low-pass filter."""

    sigma: Annotated[PositiveFloat, labelled(adds=", σ = {sigma}")] = 0.01
    """Standard deviation of the noise, in units of c."""
    draws: Annotated[PositiveInt, estimation()] = 100
    """Number of draws."""
    scaling: Annotated[str, labelled(adds=", {scaling} noise")] = "none"
    """The vector c: none (1); filter for noise in proportion to the norm of each filter, as in training."""


class LowPassFilter(Average[LowPassSpec]):
    r"""The loss seen through a Gaussian kernel.

    .. math:: (L_S * K)(w) = E_{\epsilon \sim N(0, \sigma^2 \mathrm{diag}(c^2))} L_S(w + \epsilon)

    (Bisla et al. 2022). The loss itself is not subtracted: ``average_case`` is this minus :math:`L_S(w)`.
    """

    name = "low_pass_filter"
    traits = Traits(
        stochastic=True, invariant_to={"permutation", "translation"}, symbol="L * K", label="low-pass filtered loss",
        reference="Bisla et al. 2022, Eq. 4", bibtex=("bisla2022lowpass",),
    )  # fmt: skip


class LocalEntropySpec(ViewSpec):
    """Settings of local entropy."""

    gamma: Annotated[PositiveFloat, labelled(adds=", γ = {gamma}", always=True)] = 1e4
    """Stiffness of the spring to w: the noise has the standard deviation 1/sqrt(gamma)."""
    draws: Annotated[PositiveInt, estimation()] = 100
    """Number of draws."""


class LocalEntropy(Average[LocalEntropySpec]):
    r"""Log-volume of good weights near w, on the scale of the log-likelihood of all n points.

    .. math:: F(w, \gamma) = \log \int e^{-n L(w') - \frac{\gamma}{2} \|w - w'\|^2}\, dw'
       = \log E_{\epsilon \sim N(0, I/\gamma)}\, e^{-n L(w + \epsilon)} + \tfrac{d}{2} \log \tfrac{2\pi}{\gamma}

    over d free parameters (Chaudhari et al. 2017; Baldassi et al. 2020). Published code draws noise with the standard
    deviation 1/gamma, not 1/sqrt(gamma), and adds -1/2 log gamma, not -d/2 log gamma. The log of the mean is below its
    limit on average, by much where few draws carry it: ``extras["effective_draws"]``, and then not converged.
    ``extras["log_mean"]`` is the value without the constant.
    """

    name = "local_entropy"
    traits = Traits(
        level="dataset", larger_means="flatter", stochastic=True, invariant_to={"permutation", "translation"},
        symbol="F(w, γ)", label="local entropy", reference="Chaudhari et al. 2017, Eq. 3",
        bibtex=("chaudhari2017entropy",),
    )  # fmt: skip


class LocalEnergySpec(PartSpec):
    """Settings of local energy."""

    sigma: Annotated[PositiveFloat, labelled(adds=", σ = {sigma}")] = 0.25
    """Standard deviation of the noise, in units of c."""
    draws: Annotated[PositiveInt, estimation()] = 100
    """Number of draws."""
    scaling: Annotated[str, labelled(adds=", {scaling} noise")] = "elementwise"
    """The vector c: elementwise (|w|), or any other scaling."""


class LocalEnergy(Average[LocalEnergySpec]):
    r"""Mean rise of the classification error under multiplicative noise on the weights.

    .. math:: E_z\, \mathrm{err}(w + \sigma z \odot |w|) - \mathrm{err}(w), \qquad z \sim N(0, I)

    (Pittorino et al. 2021): average-case adaptive sharpness of the error in place of the loss.
    """

    name = "local_energy"
    traits = Traits(
        stochastic=True, invariant_to={"rescaling", "output_scale", "permutation"}, symbol="δE",
        label="local energy", reference="Pittorino et al. 2021, Eq. 5", bibtex=("pittorino2021entropic",),
    )  # fmt: skip

    def passes(self, spec: LocalEnergySpec) -> Cost:
        """One forward a draw, and the clean one."""
        return Cost(forwards=spec.draws + 1)
