"""The spectra of layers, what is fitted to each, and means over those to which it can be fitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance_classic.weights.matrix_norms import spectrum
from acutance_classic.weights.power_laws import (
    ALL_THE_SAME,
    EQUAL,
    PowerLaw,
    UnfitError,
    marchenko_pastur_median,
    power_law,
)
from acutance_classic.weights.weight_matrices import WeightMatrix, matrices

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_classic.weights.heavy_tail import SpectrumSpec


@dataclass(frozen=True)
class Layer:
    """The spectrum of one weight matrix: eigenvalues above zero and all of them, ascending, and its two sizes."""

    positive: Tensor
    squares: Tensor
    sizes: tuple[int, ...]

    @cached_property
    def law(self) -> PowerLaw:
        """The power law of the tail."""
        return power_law(self.positive)

    @property
    def log10_largest(self) -> float:
        """Logarithm of the largest eigenvalue."""
        return math.log10(float(self.positive[-1]))

    @property
    def log10_power_sum(self) -> float:
        """Logarithm of the sum of the eigenvalues to the power of the exponent."""
        return float(torch.logsumexp(self.law.alpha * self.positive.log(), 0)) / math.log(10)

    @property
    def soft_rank(self) -> float:
        """Edge of the bulk over the largest eigenvalue."""
        if 2 * len(self.positive) <= len(self.squares):
            raise UnfitError("half of its eigenvalues are zero")
        if float(self.positive[-1]) <= float(self.positive[0]) * (1 + EQUAL):
            raise UnfitError(ALL_THE_SAME)
        beta = min(self.sizes) / max(self.sizes)
        scale = float(self.squares.quantile(0.5)) / marchenko_pastur_median(beta)
        return scale * (1 + math.sqrt(beta)) ** 2 / float(self.positive[-1])


def layer_of(surface: LossSurface, matrix: WeightMatrix) -> Layer:
    """Return the spectrum of a weight matrix, computed once; what is zero up to rounding does not count as positive."""

    def of_spectrum() -> Layer:
        squares, sizes = spectrum(surface, matrix), tuple(matrix.values.shape)
        rounding = torch.finfo(torch.float64).eps * max(sizes) * squares[-1]
        return Layer(squares[squares > rounding], squares, sizes)

    layer: Layer = surface.memo(("spectrum of a layer", matrix.name), of_spectrum)
    return layer


def mean_over_layers(surface: LossSurface, spec: SpectrumSpec, value: Callable[[Layer], float]) -> Estimate:
    """Return the mean of a value over the layers that have one, with theirs, and how many were left out.

    Raises:
        Unsupported: when no layer has one.
    """
    found, reasons = {}, {}
    for matrix in matrices(surface, spec.parameters):
        layer = layer_of(surface, matrix)
        try:
            if len(layer.positive) < spec.min_eigenvalues:
                raise UnfitError(f"{len(layer.positive)} eigenvalues above zero, fewer than {spec.min_eigenvalues}")
            found[matrix.name] = value(layer)
        except UnfitError as error:
            reasons[matrix.name] = str(error)
    if not found:
        name, reason = next(iter(reasons.items()))
        raise Unsupported(f"nothing can be fitted to any of the {len(reasons)} weight matrices ('{name}': {reason})")
    extras = {"layers": found, "fitted": len(found), "left_out": len(reasons)}
    return Estimate(math.fsum(found.values()) / len(found), extras=extras | ({"reasons": reasons} if reasons else {}))


def fits(surface: LossSurface, spec: SpectrumSpec, mean: Estimate) -> Estimate:
    """Return the mean exponent with all that was fitted to each layer, and the standard error of these fits."""
    laws = {
        m.name: layer_of(surface, m).law for m in matrices(surface, spec.parameters) if m.name in mean.extras["layers"]
    }
    layers = {name: asdict(law) | {"stderr": law.stderr} for name, law in laws.items()}
    error = math.sqrt(math.fsum(law.stderr**2 for law in laws.values())) / len(laws)
    return replace(mean, extras={**mean.extras, "layers": layers, "fit_stderr": error})
