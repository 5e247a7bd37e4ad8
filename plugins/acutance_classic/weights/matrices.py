r"""Norms of the weight matrices, layer by layer: stable ranks, and how far training took each.

What a weight matrix is, is said in ``weight_matrices``. A convolution counts as its kernel laid out as (out, -1), the
form in which Jiang et al. (2020) and Dziugaite et al. (2020) measured it; the norm of that matrix is **not** the norm
of the convolution as a linear map, which ``convolution: operator`` gives on a periodic grid (see ``circular``). Gains
of normalization layers are not folded into the matrices before them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from acutance.measure import Estimate, Measure, Traits
from acutance_classic.spec import PartSpec
from acutance_classic.weights.matrix_spec import MatrixSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class StableRank(Measure[PartSpec]):
    r"""Stable rank of the weight matrices.

    .. math:: \frac1d \sum_{l=1}^d \frac{\|W_l\|_F^2}{\|W_l\|_2^2}

    the mean over the d weight matrices, convolutions as (out, -1); each lies between 1 and its rank
    (Rudelson & Vershynin 2007). ``extras["layers"]`` has those of the layers.
    """

    name = "stable_rank"
    traits = Traits(
        level="weights", larger_means="weights of higher rank", needs={"weights"},
        invariant_to={"output_scale", "permutation", "translation"},
        symbol="srank", label="stable rank", reference="Rudelson & Vershynin 2007; Neyshabur et al. 2018",
        bibtex=("rudelson2007sampling", "neyshabur2018pac"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PartSpec, rng: Streams) -> Estimate:
        """Return the mean of the layers' stable ranks."""
        from acutance_classic.weights.matrix_norms import frobenius_squares, ratios, spectral_squares

        by_matrix = MatrixSpec(parameters=spec.parameters)
        ranks = ratios(frobenius_squares(surface, spec), spectral_squares(surface, by_matrix))
        return Estimate(math.fsum(ranks.values()) / len(ranks), extras={"layers": ranks})


class FrobeniusDistance(Measure[PartSpec]):
    r"""Distance of the weight matrices from initialization in Frobenius norm, squared and summed over layers.

    .. math:: \sum_l \|W_l - W_l^0\|_F^2

    the ``fro-dist`` of Jiang et al. (2020), which is squared. Unsupported where the initial weights are not known.
    """

    name = "frobenius_distance"
    traits = Traits(
        level="weights", larger_means="farther from initialization", needs={"weights", "initial_weights"},
        invariant_to={"permutation", "translation"},
        symbol="Σ‖W−W₀‖_F²", label="Frobenius distance from initialization",
        reference="Jiang et al. 2020, fro-dist; Dziugaite et al. 2020",
        bibtex=("jiang2020fantastic", "dziugaite2020search"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PartSpec, rng: Streams) -> float:
        """Return the sum of the layers' squared distances."""
        from acutance_classic.weights.matrix_norms import frobenius_squares

        return math.fsum(frobenius_squares(surface, spec, moved=True).values())

    def vectors(self, spec: PartSpec) -> int:
        """Return the difference, and one in double precision."""
        return 3


class SpectralDistance(Measure[MatrixSpec]):
    r"""Distance of the weight matrices from initialization in spectral norm, squared and summed over layers.

    .. math:: \sum_l \|W_l - W_l^0\|_2^2

    the ``dist-spec-init`` of Jiang et al. (2020). A convolution counts as (out, -1), whose norm is not that of the
    operator; ``convolution: operator`` takes the latter. Unsupported where the initial weights are not known.
    """

    name = "spectral_distance"
    traits = Traits(
        level="weights", larger_means="farther from initialization", needs={"weights", "initial_weights"},
        invariant_to={"permutation", "translation"},
        symbol="Σ‖W−W₀‖₂²", label="spectral distance from initialization",
        reference="Jiang et al. 2020, dist-spec-init; Dziugaite et al. 2020",
        bibtex=("jiang2020fantastic", "dziugaite2020search", "sedghi2019singular"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: MatrixSpec, rng: Streams) -> float:
        """Return the sum of the layers' squared distances."""
        from acutance_classic.weights.matrix_norms import spectral_squares

        return math.fsum(spectral_squares(surface, spec, moved=True).values())

    def vectors(self, spec: MatrixSpec) -> int:
        """Return the difference, and one in double precision."""
        return 3
