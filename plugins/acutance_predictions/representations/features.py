"""The features of a layer, and what several measures read of them, each computed once for a model on its points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from acutance.errors import Unsupported, UserError
from acutance_predictions.representations.measure import PENULTIMATE

if TYPE_CHECKING:
    from acutance.surface import LossSurface

Rows = Literal["centred", "unit"]


def features(surface: LossSurface, layer: str, initial: bool = False) -> Tensor:
    """Return the features of a layer, (n, d) float64, one forward for all measures of that layer.

    Args:
        surface: of the model.
        layer: ``penultimate``, or the name of a module; of its second call, ``name#2``.
        initial: at the weights that training started from.

    Raises:
        Unsupported: where the layer does not exist, or does not give numbers, one row a point.
    """
    return surface.shared(("features", layer, initial), lambda: _features(surface, layer, initial))


@torch.no_grad()
def _features(surface: LossSurface, layer: str, initial: bool) -> Tensor:
    w = surface.w0 if initial else None
    if layer == PENULTIMATE:
        found = surface.last_layer(w).features
    else:
        try:
            outputs = surface.activations(layer.partition("#")[0], w)
        except UserError as error:
            raise Unsupported(f"there is no layer '{layer}' to look at: {error}") from error
        if layer not in outputs:
            raise Unsupported(f"'{layer}' is not one layer: name one of {', '.join(sorted(outputs)[:5])}")
        found = outputs[layer]
    if not found.is_floating_point():
        raise Unsupported(f"layer '{layer}' gives whole numbers, which are no features")
    return found.double().flatten(1) if found.dim() > 1 else found.double()[:, None]


def singular_values(surface: LossSurface, layer: str) -> Tensor:
    """Return the singular values of the features as they are, not centred, largest first."""
    return surface.shared(("singular values", layer), lambda: _svdvals(features(surface, layer)))


def covariance_spectrum(surface: LossSurface, layer: str, rows: Rows = "centred", initial: bool = False) -> Tensor:
    r"""Return the eigenvalues of the covariance of the features, largest first; those that are rounding are 0.

    .. math:: \frac1n \sum_i z_i z_i^\top, \quad z_i = \phi_i - \bar\phi \text{ (centred), or } z_i / \|z_i\|
        \text{ (unit)}

    Args:
        surface: of the model.
        layer: as of ``features``.
        rows: what z is; a point that lies at the mean keeps its z of 0.
        initial: at the weights that training started from.
    """

    def make() -> Tensor:
        phi = features(surface, layer, initial)
        z = phi - phi.mean(0)
        # What differs from the mean by the rounding of the features alone does not differ.
        floor = torch.finfo(surface.dtype).eps * float(torch.linalg.matrix_norm(phi, torch.inf))
        norms = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        z = z.masked_fill(norms <= floor, 0.0)
        if rows == "unit":
            z = z / norms.masked_fill(norms <= floor, 1.0)
        sigma = _svdvals(z)
        return sigma.masked_fill(sigma <= sigma[0] * max(z.shape) * torch.finfo(z.dtype).eps, 0.0).square() / len(z)

    return surface.shared(("covariance spectrum", layer, rows, initial), make)


def _svdvals(matrix: Tensor) -> Tensor:
    """Return singular values; of the matrix itself, since a Gram matrix would lose half of the digits."""
    sigma: Tensor = torch.linalg.svdvals(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    return sigma


def exponential_of_entropy(weights: Tensor) -> float:
    r"""Return :math:`\exp(-\sum_k p_k \log p_k)` of non-negative weights over their sum: how many there are in effect.

    Raises:
        Unsupported: for weights that are all zero.
    """
    total = float(weights.sum())
    if total == 0:
        raise Unsupported("the features are the same at all points, so they have no spectrum")
    return float(torch.special.entr(weights / total).sum().exp())
