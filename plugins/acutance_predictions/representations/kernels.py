"""Alignments of linear kernels, without a kernel of points where there are more of them than dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from acutance.errors import Unsupported


def _product(f: Tensor, g: Tensor) -> float:
    r"""Return :math:`\langle F F^\top, G G^\top \rangle`, through the smaller of the two ways."""
    if f.shape[1] * g.shape[1] <= len(f) * (f.shape[1] + g.shape[1]):
        return float((f.T @ g).square().sum())
    return float(((f @ f.T) * (g @ g.T)).sum())


def _centred(f: Tensor, precision: float) -> Tensor | None:
    """Return features of size 1 less their mean; None where they are not finite, or vary by rounding alone."""
    f = f.detach().double().flatten(1)
    centred = f - f.mean(0)
    scale = centred.abs().max()
    if not bool(f.isfinite().all()) or bool(scale <= 8 * precision * f.abs().max()):
        return None
    return centred / scale


def alignment(f: Tensor, g: Tensor, precision: float) -> float:
    """Return the alignment of the centred linear kernels of two sets of features, (n, d) and (n, e).

    Raises:
        Unsupported: where features are the same at all points.
    """
    a, b = _centred(f, precision), _centred(g, precision)
    if a is None or b is None:
        raise Unsupported("the features are the same at all points, so their kernel is zero")
    return _product(a, b) / math.sqrt(_product(a, a) * _product(b, b))


def alignments(features: Sequence[Tensor | None]) -> Tensor:
    """Return the alignments of all pairs, (M, M), NaN where one is not defined, as of models without features."""
    centred = [None if f is None else _centred(f, torch.finfo(f.dtype).eps) for f in features]
    norms = [None if f is None else math.sqrt(_product(f, f)) for f in centred]
    found = torch.full((len(features),) * 2, torch.nan, dtype=torch.float64)
    for i, (f, norm) in enumerate(zip(centred, norms, strict=True)):
        for j in range(i):
            g, other = centred[j], norms[j]
            if f is not None and g is not None and norm is not None and other is not None:
                found[i, j] = found[j, i] = _product(f, g) / (norm * other)
    return found
