r"""Bounds by the noise that the accuracy bears: PAC-Bayes with a Gaussian prior at zero, or at the initial weights.

The value is the complexity :math:`\mu` of Jiang et al. (2020); the error may exceed that on the training points by
about :math:`\sqrt{\mu/m}`, ``gap`` in the extras, m being ``surface.num_train`` and :math:`\omega` the number of free
parameters. m is the size of the study's split, ``num_train`` of ``acutance.measure``, or ``--num-train``; the number of
points where none is given. The constant 10 stands for confidence and for the choice of :math:`\sigma` from a grid.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Estimate, Need, Traits
from acutance.spec import labelled
from acutance_classic.pac_bayes import DeviationSpec, DeviationT, MagnitudeSpec, NoiseMeasure

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SOURCE = Traits(
    level="dataset", larger_means="larger bound", needs={"weights", "data"}, stochastic=True, symbol="μ",
    reference="Jiang et al. 2020", bibtex=("jiang2020fantastic", "neyshabur2017exploring", "mcallester1999pac"),
)  # fmt: skip


class Bound(NoiseMeasure[DeviationT]):
    """A complexity that bounds the rise of the error from training points to others."""

    @abstractmethod
    def divergence(self, surface: LossSurface, spec: DeviationT, sigma: float) -> float:
        """Return half of the divergence of the noisy weights from the prior, of the free part of a surface."""

    def value(self, surface: LossSurface, spec: DeviationT, scale: float) -> float:
        """Return the divergence with the logarithm of m over sigma."""
        return self.divergence(surface, spec, scale) + math.log(surface.num_train / scale) + 10

    def evaluate(self, surface: LossSurface, spec: DeviationT, rng: Streams) -> Estimate:
        """Return the complexity, with the gap that it allows in the extras."""
        found = super().evaluate(surface, spec, rng)
        gap = math.sqrt(found.value / surface.num_train) if found.value >= 0 else math.nan
        return replace(found, extras={**found.extras, **({"gap": gap} if math.isfinite(gap) else {})})


class PacBayesOrig(Bound[DeviationSpec]):
    r"""PAC-Bayes bound with a prior at zero.

    .. math:: \mu = \frac{\|w\|_2^2}{4 \sigma^2} + \log\frac{m}{\sigma} + 10
    """

    name = "pacbayes_orig"
    traits = replace(SOURCE, label="PAC-Bayes bound from zero")

    def divergence(self, surface: LossSurface, spec: DeviationSpec, sigma: float) -> float:
        """Return the squared norm over the noise."""
        return float(surface.w.double().square().sum()) / (4 * sigma**2)


class PacBayesInit(Bound[DeviationSpec]):
    r"""PAC-Bayes bound with a prior at the initial weights.

    .. math:: \mu = \frac{\|w - w_0\|_2^2}{4 \sigma^2} + \log\frac{m}{\sigma} + 10
    """

    name = "pacbayes_init"
    traits = replace(
        SOURCE, needs={"weights", "data", "initial_weights"}, label="PAC-Bayes bound from initialization"
    )  # fmt: skip

    def divergence(self, surface: LossSurface, spec: DeviationSpec, sigma: float) -> float:
        """Return the squared distance over the noise."""
        return float((surface.w.double() - surface.w0.double()).square().sum()) / (4 * sigma**2)


class MagnitudeBoundSpec(MagnitudeSpec):
    """Settings of a bound by noise in proportion to each weight."""

    form: Annotated[Literal["published", "derived"], labelled({"published": ""}, adds=", {form}")] = "published"
    """published: with the variances as printed, of w - w0; derived: with those of the noise that was searched, of w."""


class PacBayesMagnitudeInit(Bound[MagnitudeBoundSpec]):
    r"""PAC-Bayes bound for noise in proportion to each weight, with a prior at the initial weights.

    .. math:: \mu = \tfrac14 \sum_i \log \frac{\epsilon^2 + (\sigma'^2 + 1)\|w - w_0\|_2^2/\omega}
       {\epsilon^2 + \sigma'^2 (w_i - w_{0,i})^2} + \log\frac{m}{\sigma'} + 10

    half of the divergence of :math:`N(w, \mathrm{diag}(v))` from the best :math:`N(w_0, s^2 I)`, for
    :math:`v_i = \epsilon^2 + \sigma'^2 (w_i - w_{0,i})^2`. The noise under which the accuracy was looked at has
    :math:`v_i = \epsilon^2 + \sigma'^2 w_i^2`; ``form: derived`` takes these, with
    :math:`s^2 = \bar v + \|w - w_0\|_2^2/\omega` in the numerator.
    """

    name = "pacbayes_magnitude_init"
    traits = replace(
        SOURCE, needs={"weights", "data", "initial_weights"},
        label="magnitude-aware PAC-Bayes bound from initialization",
    )  # fmt: skip

    def divergence(self, surface: LossSurface, spec: MagnitudeBoundSpec, sigma: float) -> float:
        """Return half of the divergence."""
        moved = surface.w.double() - surface.w0.double()
        spread = moved if spec.form == "published" else surface.w.double()
        variances = spec.eps**2 + sigma**2 * spread.square()
        return _half_divergence(variances.mean() + moved.square().mean(), variances)


class PacBayesMagnitudeOrig(Bound[MagnitudeBoundSpec]):
    r"""PAC-Bayes bound for noise in proportion to each weight, with a prior at zero.

    .. math:: \mu = \tfrac14 \sum_i \log \frac{\epsilon^2 + (\sigma'^2 + 1)\|w\|_2^2/\omega}
       {\epsilon^2 + \sigma'^2 (w_i - w_{0,i})^2} + \log\frac{m}{\sigma'} + 10

    as printed and in public code, although its numerator belongs to variances of :math:`w_i` and its denominator to
    those of :math:`w_i - w_{0,i}`: it is no divergence. ``form: derived`` has :math:`\epsilon^2 + \sigma'^2 w_i^2`
    there, which makes it one, of the noise that was searched, and needs no initial weights.
    """

    name = "pacbayes_magnitude_orig"
    traits = replace(SOURCE, label="magnitude-aware PAC-Bayes bound from zero")

    def needs(self, spec: MagnitudeBoundSpec) -> frozenset[Need]:
        """The initial weights besides, in the published form."""
        more: set[Need] = {"initial_weights"} if spec.form == "published" else set()
        return super().needs(spec) | more

    def divergence(self, surface: LossSurface, spec: MagnitudeBoundSpec, sigma: float) -> float:
        """Return half of the divergence."""
        w = surface.w.double()
        spread = w - surface.w0.double() if spec.form == "published" else w
        prior = spec.eps**2 + (sigma**2 + 1) * w.square().mean()
        return _half_divergence(prior, spec.eps**2 + sigma**2 * spread.square())


def _half_divergence(prior: Tensor, variances: Tensor) -> float:
    r"""Return :math:`\frac14 \sum_i \log(s^2 / v_i)`, from s^2, 0-d, and v, (p,)."""
    still = int((variances == 0).sum())
    if still:
        raise Unsupported(f"{still} weights get no noise, so that the bound is infinite: take eps above 0")
    return float((prior / variances).log().sum()) / 4
