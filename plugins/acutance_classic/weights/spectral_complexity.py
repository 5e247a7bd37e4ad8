r"""Spectral norms together with how spread the weights are: the main terms of norm-based bounds.

The bounds of Bartlett et al. (2017) and Neyshabur et al. (2018), as Jiang et al. (2020) measured them; what
``norm_products`` says of squares, of the margin and of the sample size holds here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from acutance.errors import Unsupported
from acutance.measure import Measure, Traits
from acutance_classic.weights.matrix_spec import MatrixOverMarginSpec, MatrixSpec, OverMargin, log_margin

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SOURCES = ("jiang2020fantastic", "dziugaite2020search", "neyshabur2018pac", "bartlett2017spectrally")


class FroOverSpec(Measure[MatrixSpec]):
    r"""Frobenius over spectral norms, squared, summed over layers: the sum of stable ranks.

    .. math:: \sum_l \|W_l\|_F^2 / \|W_l\|_2^2
    """

    name = "fro_over_spec"
    traits = Traits(
        level="weights", larger_means="weights of higher rank", needs={"weights"},
        invariant_to={"output_scale", "permutation", "translation"},
        symbol="Σ‖W‖_F²/‖W‖₂²", label="Frobenius over spectral norm", reference="Jiang et al. 2020, fro-over-spec",
        bibtex=SOURCES,
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MatrixSpec, rng: Streams) -> float:
        """Return the sum."""
        from acutance_classic.weights.matrix_norms import frobenius_squares, ratios, spectral_squares

        return math.fsum(ratios(frobenius_squares(surface, spec), spectral_squares(surface, spec)).values())


class SpectralOrigMain(OverMargin[MatrixOverMarginSpec]):
    r"""Main term of the spectral bound with the origin as reference, as a logarithm.

    .. math:: \sum_l \log \|W_l\|_2^2 + \log \sum_l \frac{\|W_l\|_F^2}{\|W_l\|_2^2} \quad [\, - 2 \log \gamma \,]

    The source divides by the margin: ``margin: true``. A convolution counts as (out, -1), whose norm is not that of
    the operator: ``convolution: operator`` takes both of its norms.
    """

    name = "spectral_orig_main"
    traits = Traits(
        level="weights", larger_means="more capacity", needs={"weights"}, invariant_to={"permutation", "translation"},
        symbol="spec-orig", label="spectral complexity from the origin",
        reference="Jiang et al. 2020, spec-orig-main", bibtex=(*SOURCES, "sedghi2019singular"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MatrixOverMarginSpec, rng: Streams) -> float:
        """Return the logarithm."""
        from acutance_classic.weights.matrix_norms import frobenius_squares, log_of_product, ratios, spectral_squares

        squares = spectral_squares(surface, spec)
        spread = math.fsum(ratios(frobenius_squares(surface, spec), squares).values())
        return log_of_product(squares) + math.log(spread) - log_margin(surface, spec.margin)


class SpectralInitMain(OverMargin[MatrixOverMarginSpec]):
    r"""Main term of the spectral bound with the initial weights as reference, as a logarithm.

    .. math:: \sum_l \log \|W_l\|_2^2 + \log \sum_l \frac{\|W_l - W_l^0\|_F^2}{\|W_l\|_2^2} \;[\, - 2 \log \gamma \,]

    The source divides by the margin: ``margin: true``. Unsupported where the initial weights are not known, or where
    no weight matrix has left them.
    """

    name = "spectral_init_main"
    traits = Traits(
        level="weights", larger_means="more capacity", needs={"weights", "initial_weights"},
        invariant_to={"permutation", "translation"},
        symbol="spec-init", label="spectral complexity from initialization",
        reference="Jiang et al. 2020, spec-init-main", bibtex=(*SOURCES, "sedghi2019singular"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MatrixOverMarginSpec, rng: Streams) -> float:
        """Return the logarithm."""
        from acutance_classic.weights.matrix_norms import frobenius_squares, log_of_product, ratios, spectral_squares

        squares = spectral_squares(surface, spec)
        spread = math.fsum(ratios(frobenius_squares(surface, spec, moved=True), squares).values())
        if spread == 0:
            raise Unsupported("every weight matrix is the initial one: the logarithm of their distance is not defined")
        return log_of_product(squares) + math.log(spread) - log_margin(surface, spec.margin)

    def vectors(self, spec: MatrixOverMarginSpec) -> int:
        """Return the difference, and one in double precision."""
        return 3
