"""The size of a network that margins are divided by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from acutance_classic.weights.matrix_norms import log_of_product, spectral_squares
from acutance_classic.weights.matrix_spec import MatrixSpec
from acutance_classic.weights.weight_matrices import matrices

if TYPE_CHECKING:
    from acutance.surface import LossSurface


def log_complexity(surface: LossSurface, complexity: str) -> float:
    r"""Return the logarithm of what margins are divided by.

    .. math:: \sum_l \log \|W_l\|_2 \qquad\text{or that plus}\qquad
       \tfrac32 \log \sum_l \big(\|W_l^\top\|_{2,1} / \|W_l\|_2\big)^{2/3}

    where :math:`\|W^\top\|_{2,1}` is the sum of the norms of the rows.
    """
    tops = spectral_squares(surface, MatrixSpec())
    logarithm = log_of_product(tops) / 2
    if complexity == "bartlett":
        rows = {m.name: float(m.values.double().norm(dim=1).sum()) for m in matrices(surface, "all")}
        ratios = [rows[name] / math.sqrt(top) for name, top in tops.items()]
        logarithm += 1.5 * math.log(math.fsum(ratio ** (2 / 3) for ratio in ratios))
    return logarithm
