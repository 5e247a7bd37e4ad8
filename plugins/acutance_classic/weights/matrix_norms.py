r"""Norms and spectra of weight matrices, in double precision; each is computed once a surface.

Squared singular values are the eigenvalues of the smaller of :math:`W W^\top` and :math:`W^\top W`, whose largest is
known to rounding; where that matrix is large the largest alone is found by Lanczos, to ``TOLERANCE``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.numerics.draws import Streams
from acutance.numerics.lanczos import Lanczos, largest_eigenvalues
from acutance_classic.spec import PartSpec
from acutance_classic.weights.circular import operator_squares
from acutance_classic.weights.matrix_spec import MatrixSpec
from acutance_classic.weights.weight_matrices import WeightMatrix, matrices

if TYPE_CHECKING:
    from acutance.surface import LossSurface

WHOLE = 2048  # rows up to which all eigenvalues are computed where the largest is wanted
TOLERANCE, PRODUCTS = 1e-10, 400  # of Lanczos: relative error of the square of the norm


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Return the squared singular values of (m, n), ascending, (min(m, n),)."""
    squares: Tensor = torch.linalg.eigvalsh(_gram(matrix))
    return squares.clamp_min(0)


def _gram(matrix: Tensor) -> Tensor:
    a = matrix.double()
    return a @ a.T if len(a) <= a.shape[1] else a.T @ a


def largest_square(matrix: Tensor) -> Tensor:
    r"""Return :math:`\|W\|_2^2` of (m, n) without the other singular values, 0-d."""
    a = matrix.double()
    a = a if len(a) <= a.shape[1] else a.T
    # Noise with a name of its own: the same for all models, whatever the seed.
    start = Streams("largest singular value").normal("start", 0, torch.empty_like(a[:, 0]))
    found = largest_eigenvalues(lambda x: a @ (a.T @ x), Lanczos(start), TOLERANCE, PRODUCTS)
    return a.new_tensor(found.values[0]) if found.converged else squared_singular_values(a)[-1]


def spectrum(surface: LossSurface, matrix: WeightMatrix, moved: bool = False) -> Tensor:
    """Return the squared singular values of a weight matrix, ascending; computed once for all measures."""
    key = ("squared singular values", matrix.name, moved)
    return surface.memo(key, lambda: squared_singular_values(matrix.values))


def spectral_squares(surface: LossSurface, spec: MatrixSpec, moved: bool = False) -> dict[str, float]:
    r"""Return :math:`\|W_l\|_2^2` of every weight matrix, or of how far it moved, by its name."""
    found = matrices(surface, spec.parameters, moved)
    return {matrix.name: _spectral_square(surface, spec, matrix, moved) for matrix in found}


def _spectral_square(surface: LossSurface, spec: MatrixSpec, matrix: WeightMatrix, moved: bool) -> float:
    if spec.convolution == "operator" and matrix.kernel is not None:
        return _operator(surface, spec, matrix, moved)[0]
    if min(matrix.values.shape) > WHOLE:
        return float(surface.memo(("squared spectral norm", matrix.name, moved), lambda: largest_square(matrix.values)))
    return float(spectrum(surface, matrix, moved)[-1])


def frobenius_squares(surface: LossSurface, spec: PartSpec, moved: bool = False) -> dict[str, float]:
    r"""Return :math:`\|W_l\|_F^2` of every weight matrix, or of how far it moved, by its name."""
    found = {}
    for matrix in matrices(surface, spec.parameters, moved):
        if matrix.kernel is not None and isinstance(spec, MatrixSpec) and spec.convolution == "operator":
            found[matrix.name] = _operator(surface, spec, matrix, moved)[1]
        else:
            found[matrix.name] = float(matrix.values.double().square().sum())
    return found


def _operator(surface: LossSurface, spec: MatrixSpec, matrix: WeightMatrix, moved: bool) -> tuple[float, float]:
    assert matrix.kernel is not None
    kernel, layer = matrix.kernel
    key = ("convolution operator", matrix.name, spec.size, moved)
    return surface.memo(key, lambda: operator_squares(kernel, layer, spec.size, matrix.name))


def log_of_product(squares: Mapping[str, float]) -> float:
    """Return the sum of the logarithms of positive numbers, one a weight matrix."""
    _refuse_zeros(squares)
    return math.fsum(map(math.log, squares.values()))


def ratios(tops: Mapping[str, float], squares: Mapping[str, float]) -> dict[str, float]:
    """Return a number over another for every weight matrix."""
    _refuse_zeros(squares)
    return {name: tops[name] / square for name, square in squares.items()}


def _refuse_zeros(squares: Mapping[str, float]) -> None:
    for name, square in squares.items():
        if square <= 0:
            raise Unsupported(f"the weight matrix '{name}' is zero: it has no logarithm, and nothing to divide by")
