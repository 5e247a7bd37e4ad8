r"""Shape and scale of the spectra of weights: power laws in their tails, and how far they stand out of random ones.

The measures of Martin & Mahoney (2021) and Martin, Peng & Mahoney (2021), which their library WeightWatcher computes:
of every layer the eigenvalues :math:`\lambda_i` of :math:`W^\top W` (not divided by a dimension), then the mean over
layers. Differences: a convolution counts as (out, -1) as everywhere here, where WeightWatcher pools the spectra of the
matrices at each place of the kernel; a layer that cannot be fitted is left out and counted, where there it may enter
with a value that stands for none; nothing is clipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from acutance.measure import Estimate, Measure, Traits
from acutance.spec import labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class SpectrumSpec(PartSpec):
    """Settings of a measure of the spectra of weights."""

    min_eigenvalues: Annotated[int, Field(ge=3), labelled(adds=", from {min_eigenvalues} eigenvalues")] = 5
    """Layers with fewer eigenvalues above zero are left out; fits to fewer than about 50 say little."""


class PowerLawAlpha(Measure[SpectrumSpec]):
    r"""Exponent of the power law in the tail of the spectra of weights.

    .. math:: \hat\alpha = 1 + m \Big/ \sum_{\lambda_i \ge x} \ln(\lambda_i / x)

    over the m eigenvalues from x on, where x is the one that makes the tail closest to
    :math:`p(\lambda) \propto \lambda^{-\alpha}` in Kolmogorov and Smirnov's distance (Clauset, Shalizi & Newman 2009;
    the distance as in their published code, to the share of smaller eigenvalues). ``extras["layers"]`` has of each
    layer alpha, its standard error :math:`(\hat\alpha - 1)/\sqrt m`, x, m and the distance; ``fit_stderr`` is that of
    the mean. A large alpha comes from a tail of very few eigenvalues as a rule: look at m.
    """

    name = "power_law_alpha"
    traits = Traits(
        level="weights", larger_means="lighter tails", needs={"weights"},
        invariant_to={"output_scale", "permutation", "translation"}, symbol="α", label="power-law exponent",
        reference="Clauset et al. 2009, Eq. 3.1; Martin & Mahoney 2021",
        bibtex=("clauset2009power", "martin2021implicit"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: SpectrumSpec, rng: Streams) -> Estimate:
        """Return the mean exponent."""
        from acutance_classic.weights.layer_spectra import fits, mean_over_layers

        return fits(surface, spec, mean_over_layers(surface, spec, lambda layer: layer.law.alpha))


class AlphaHat(Measure[SpectrumSpec]):
    r"""Exponent of the tail, weighted by the logarithm of the largest eigenvalue.

    .. math:: \hat\alpha \log_{10} \lambda_{\max}

    with the exponent of ``power_law_alpha``; WeightWatcher's ``alpha_weighted``.
    """

    name = "alpha_hat"
    traits = Traits(
        level="weights", larger_means="lighter tails or larger weights", needs={"weights"},
        invariant_to={"permutation", "translation"}, symbol="α̂", label="weighted alpha",
        reference="Martin, Peng & Mahoney 2021, Eq. 7", bibtex=("martin2021predicting", "clauset2009power"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: SpectrumSpec, rng: Streams) -> Estimate:
        """Return the mean over layers."""
        from acutance_classic.weights.layer_spectra import mean_over_layers

        return mean_over_layers(surface, spec, lambda layer: layer.law.alpha * layer.log10_largest)


class LogAlphaNorm(Measure[SpectrumSpec]):
    r"""Logarithm of the Schatten norm of the order that the tail has.

    .. math:: \log_{10} \sum_i \lambda_i^{\hat\alpha}

    over all eigenvalues, with the exponent of ``power_law_alpha``; WeightWatcher's ``log_alpha_norm``. It is summed as
    a logarithm, so that no exponent overflows.
    """

    name = "log_alpha_norm"
    traits = Traits(
        level="weights", larger_means="lighter tails or larger weights", needs={"weights"},
        invariant_to={"permutation", "translation"}, symbol="log‖W‖_α", label="log alpha-norm",
        reference="Martin, Peng & Mahoney 2021, Eq. 8", bibtex=("martin2021predicting", "clauset2009power"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: SpectrumSpec, rng: Streams) -> Estimate:
        """Return the mean over layers."""
        from acutance_classic.weights.layer_spectra import mean_over_layers

        return mean_over_layers(surface, spec, lambda layer: layer.log10_power_sum)


class MPSoftRank(Measure[SpectrumSpec]):
    r"""Edge of the random bulk of the spectra over their largest eigenvalue.

    .. math:: \lambda^+ / \lambda_{\max}, \qquad \lambda^+ = \sigma^2 N \big(1 + \sqrt{\beta}\,\big)^2

    the right edge of the law of Marchenko and Pastur for matrices of N rows and :math:`\beta N` columns,
    :math:`\beta \le 1`, whose entries have variance :math:`\sigma^2`. It is about 1 for a random matrix, small where
    training has made directions that stand out. The source fits the variance to the bulk by eye; here it is that whose
    median eigenvalue is the one at hand (Gavish & Donoho 2014), which outliers do not move. A layer most of whose
    eigenvalues are zero has no bulk, and is left out.
    """

    name = "mp_soft_rank"
    traits = Traits(
        level="weights", larger_means="closer to random weights", needs={"weights"},
        invariant_to={"output_scale", "permutation", "translation"}, symbol="R_mp", label="Marchenko-Pastur soft rank",
        reference="Martin & Mahoney 2021, MP soft rank", bibtex=("martin2021implicit", "gavish2014optimal"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: SpectrumSpec, rng: Streams) -> Estimate:
        """Return the mean over layers."""
        from acutance_classic.weights.layer_spectra import mean_over_layers

        return mean_over_layers(surface, spec, lambda layer: layer.soft_rank)
