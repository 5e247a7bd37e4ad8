r"""Products and sums over layers of the norms of weight matrices, in the log domain.

As Jiang et al. (2020) and Dziugaite et al. (2020) measured them: norms are squared, a convolution counts as (out, -1),
and where the margin is asked for it divides the product as :math:`\gamma^2`. Their last step, the same for all models
trained on as many points m, is left to the reader: half of the logarithm less :math:`\frac12 \log m`. Two faults of
the public code are not here: there the gains of batch normalization fold into layers by the order in which modules were
made, and the absolute value is taken of a negative margin, so that misfit reads as a margin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from acutance.measure import Traits
from acutance_classic.weights.matrix_spec import MatrixOverMarginSpec, OverMargin, OverMarginSpec, log_margin

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SOURCES = ("jiang2020fantastic", "dziugaite2020search")


class LogProductOfSpectralNorms(OverMargin[MatrixOverMarginSpec]):
    r"""Logarithm of the product of the spectral norms, squared.

    .. math:: \sum_l \log \|W_l\|_2^2 \quad [\, - 2 \log \gamma \,]

    A convolution counts as (out, -1), whose norm is not that of the operator: ``convolution: operator``.
    """

    name = "log_product_of_spectral_norms"
    traits = Traits(
        level="weights", larger_means="a larger Lipschitz constant", needs={"weights"},
        invariant_to={"permutation", "translation"},
        symbol="logΠ‖W‖₂²", label="log product of spectral norms", reference="Jiang et al. 2020, prod-of-spec",
        bibtex=(*SOURCES, "bartlett2017spectrally", "sedghi2019singular"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MatrixOverMarginSpec, rng: Streams) -> float:
        """Return the logarithm."""
        from acutance_classic.weights.matrix_norms import log_of_product, spectral_squares

        return log_of_product(spectral_squares(surface, spec)) - log_margin(surface, spec.margin)


class LogSumOfSpectralNorms(OverMargin[MatrixOverMarginSpec]):
    r"""Logarithm of the sum of the spectral norms, squared, of d layers that are balanced.

    .. math:: \log d + \frac1d \Big( \sum_l \log \|W_l\|_2^2 \;[\, - 2 \log \gamma \,] \Big)

    the sum once all layers are rescaled to have equal norms, as the source defines it: not that of the norms at hand.
    """

    name = "log_sum_of_spectral_norms"
    traits = Traits(
        level="weights", larger_means="larger weights", needs={"weights"},
        invariant_to={"permutation", "translation"},
        symbol="logΣ‖W‖₂²", label="log sum of spectral norms", reference="Jiang et al. 2020, sum-of-spec",
        bibtex=(*SOURCES, "sedghi2019singular"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MatrixOverMarginSpec, rng: Streams) -> float:
        """Return the logarithm."""
        from acutance_classic.weights.matrix_norms import log_of_product, spectral_squares

        squares = spectral_squares(surface, spec)
        return math.log(len(squares)) + (log_of_product(squares) - log_margin(surface, spec.margin)) / len(squares)


class LogProductOfFrobeniusNorms(OverMargin[OverMarginSpec]):
    r"""Logarithm of the product of the Frobenius norms, squared.

    .. math:: \sum_l \log \|W_l\|_F^2 \quad [\, - 2 \log \gamma \,]
    """

    name = "log_product_of_frobenius_norms"
    traits = Traits(
        level="weights", larger_means="larger weights", needs={"weights"},
        invariant_to={"permutation", "translation"},
        symbol="logΠ‖W‖_F²", label="log product of Frobenius norms", reference="Jiang et al. 2020, prod-of-fro",
        bibtex=(*SOURCES, "neyshabur2015norm"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: OverMarginSpec, rng: Streams) -> float:
        """Return the logarithm."""
        from acutance_classic.weights.matrix_norms import frobenius_squares, log_of_product

        return log_of_product(frobenius_squares(surface, spec)) - log_margin(surface, spec.margin)


class LogSumOfFrobeniusNorms(OverMargin[OverMarginSpec]):
    r"""Logarithm of the sum of the Frobenius norms, squared, of d layers that are balanced.

    .. math:: \log d + \frac1d \Big( \sum_l \log \|W_l\|_F^2 \;[\, - 2 \log \gamma \,] \Big)

    the sum once all layers are rescaled to have equal norms, as the source defines it: not that of the norms at hand.
    """

    name = "log_sum_of_frobenius_norms"
    traits = Traits(
        level="weights", larger_means="larger weights", needs={"weights"},
        invariant_to={"permutation", "translation"},
        symbol="logΣ‖W‖_F²", label="log sum of Frobenius norms", reference="Jiang et al. 2020, sum-of-fro",
        bibtex=SOURCES,
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: OverMarginSpec, rng: Streams) -> float:
        """Return the logarithm."""
        from acutance_classic.weights.matrix_norms import frobenius_squares, log_of_product

        squares = frobenius_squares(surface, spec)
        return math.log(len(squares)) + (log_of_product(squares) - log_margin(surface, spec.margin)) / len(squares)
