r"""How the gradients of single examples scatter: Fisher trace, gradient variance, noise scale, signal-to-noise ratio.

:math:`g_i` is the gradient of the loss of example i, :math:`\bar g` their mean over the n examples. One pass over them
serves all of these measures.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance_classic.gradient_measure import OF_EXAMPLES, GradientMeasure, LabelSpec
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class FisherTrace(GradientMeasure[LabelSpec]):
    r"""Trace of the Fisher matrix of the weights.

    .. math:: \mathrm{tr}\, F = \frac1n \sum_i \|g_i\|^2

    With ``labels: given`` that of the empirical Fisher matrix, which is small wherever the loss is; with ``sampled``
    that of the true one, :math:`E_{y \sim p_i} \|g_i(y)\|^2`, which for cross-entropy is the trace of the Gauss-Newton
    matrix. ``stderr`` is that of the draws of labels, from their spread at each example.
    """

    name = "fisher_trace"
    traits = replace(
        OF_EXAMPLES, larger_means="sharper", stochastic=True, symbol="tr F", label="Fisher trace",
        reference="Jiang et al. 2020; Kunstner, Balles & Hennig 2019 on the two matrices",
        bibtex=("jiang2020fantastic", "kunstner2019limitations"),
    )  # fmt: skip
    fewest = 1

    def evaluate(self, surface: LossSurface, spec: LabelSpec, rng: Streams) -> Estimate:
        """Return the mean square of the gradients' norms."""
        runs = self.summaries(surface, spec, rng)
        value = sum(run.mean_square for run in runs) / len(runs)
        if len(runs) < 2:
            return Estimate(value)
        mean = sum(run.squares for run in runs) / len(runs)
        variances = math.fsum(float((run.squares - mean).square().sum()) for run in runs)
        return Estimate(value, math.sqrt(variances / (len(runs) - 1) / len(runs)) / runs[0].n)


class GradientVariance(GradientMeasure[PartSpec]):
    r"""Total variance of the gradients of single examples.

    .. math:: \mathrm{tr}\, \Sigma = \frac1n \sum_i \|g_i\|^2 - \|\bar g\|^2

    with 1/n, not 1/(n - 1). A stochastic gradient of m independent examples has the variance
    :math:`\mathrm{tr}\,\Sigma / m`.
    """

    name = "gradient_variance"
    traits = replace(
        OF_EXAMPLES, symbol="tr Σ", label="gradient variance",
        reference="Jiang et al. 2020, gradient noise", bibtex=("jiang2020fantastic",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PartSpec, rng: Streams) -> float:
        """Return the variance, summed over the parameters."""
        return self.summaries(surface, spec, rng)[0].variance


class GradientNoiseScale(GradientMeasure[LabelSpec]):
    r"""Simple noise scale: the batch size at which noise and signal of a stochastic gradient are equally large.

    .. math:: B = \frac{\frac1n \sum_i \|g_i\|^2 - \|\bar g\|^2}{\|\bar g\|^2}

    (McCandlish et al. 2018), of these n points: :math:`\|\bar g\|^2` contains the noise of their mean. It grows without
    bound where training ends at a critical point. At sampled labels the mean gradient is zero but for that noise, so
    that the ratio is about n - 1 whatever the model.
    """

    name = "gradient_noise_scale"
    traits = replace(
        OF_EXAMPLES, stochastic=True, symbol="B", label="gradient noise scale",
        reference="McCandlish et al. 2018, the simple noise scale", bibtex=("mccandlish2018empirical",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: LabelSpec, rng: Streams) -> Estimate:
        """Return the ratio, its mean over draws of labels."""
        runs = self.summaries(surface, spec, rng)
        if any(run.square_of_mean == 0 for run in runs):
            raise Unsupported("the mean gradient is zero, a critical point: gradient_variance is defined there")
        ratios = [run.variance / run.square_of_mean for run in runs]
        value = sum(ratios) / len(ratios)
        if len(ratios) < 2:
            return Estimate(value)
        return Estimate(value, math.sqrt(sum((r - value) ** 2 for r in ratios) / (len(ratios) - 1) / len(ratios)))


class GradientSignalToNoise(GradientMeasure[PartSpec]):
    r"""Gradient signal-to-noise ratio (GSNR), the mean over the parameters.

    .. math:: \frac1p \sum_j \frac{\bar g_j^2}{\frac1n \sum_i (g_{ij} - \bar g_j)^2}

    (Liu et al. 2020). Parameters whose gradient is the same at all examples, as behind a dead ReLU, or is rounding
    beside the largest, as that of a key's bias, are left out; ``extras["left_out"]`` counts them. Every ratio, and so
    the mean, is invariant under elementwise rescalings.
    """

    name = "gradient_signal_to_noise"
    traits = replace(
        OF_EXAMPLES, larger_means="more consistent gradients", symbol="GSNR", label="gradient signal-to-noise ratio",
        invariant_to={"rescaling", "permutation", "translation"},
        reference="Liu et al. 2020", bibtex=("liu2020understanding",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PartSpec, rng: Streams) -> Estimate:
        """Return the mean ratio."""
        (run,) = self.summaries(surface, spec, rng)
        if run.constant == surface.restricted(spec.parameters).w.numel():
            raise Unsupported("no parameter's gradient differs between the examples, so that there is no noise")
        return Estimate(run.signal_to_noise, extras={"left_out": run.constant})
