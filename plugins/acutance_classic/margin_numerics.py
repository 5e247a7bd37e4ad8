"""Margins of logits and of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.surface import LossSurface


def runners_up(raw: Tensor, targets: Tensor) -> Tensor:
    """Return (n,) the class with the largest logit besides the target, from raw logits, (n, K)."""
    return raw.scatter(1, targets[:, None], -torch.inf).argmax(1)


def output_margins(surface: LossSurface) -> Tensor:
    r"""Return (n,) float64 margins of the raw logits, :math:`f_y - \max_{k \ne y} f_k`; NaN if a logit overflows.

    Raises:
        Unsupported: where there is no margin: targets that are numbers, places with classes of their own, one class, an
            error that is judged otherwise than by the largest logit.
    """
    if not surface.has_errors or surface.targets.is_floating_point():
        raise Unsupported("a margin needs class labels, the targets are numbers")
    raw, targets = surface.clean().raw.double(), surface.targets
    if raw.dim() != 2 or targets.dim() != 1:
        raise Unsupported(f"a margin needs one class an example, the logits have shape {tuple(raw.shape)}")
    n, classes = raw.shape
    if classes < 2:
        raise Unsupported("a margin needs two classes, the model has one output: let it return (0, f)")
    if not bool(((targets >= 0) & (targets < classes)).all()):
        raise Unsupported(f"a margin needs labels from 0 to {classes - 1}, some targets are none of them")
    if not bool(raw.isfinite().all()):
        return raw.new_full((n,), torch.nan)
    row = torch.arange(n, device=raw.device)
    margins = raw[row, targets] - raw[row, runners_up(raw, targets)]
    wrong = surface.errors_of(surface.clean().raw)
    if bool(((margins > 0) & (wrong == 1) | (margins < 0) & (wrong == 0)).any()):
        raise Unsupported("errors are not judged by the largest logit here: a margin to the label means nothing")
    return margins


def percentile(values: Tensor, percent: float) -> float:
    """Return a percentile of values, (n,), by linear interpolation; NaN if one of them is."""
    place = percent / 100 * (len(values) - 1)
    ordered = values.sort().values
    low = int(place)
    a, b = float(ordered[low]), float(ordered[min(low + 1, len(values) - 1)])
    return float("nan") if bool(values.isnan().any()) else a + (place - low) * (b - a) if place > low else a


def feature_margins(surface: LossSurface, layer: str) -> tuple[Tensor, float]:
    r"""Return (n,) distances to the boundary in a layer, and the total variation of its activations.

    .. math:: \gamma_i = \frac{f_y - f_j}{\|\nabla_h (f_y - f_j)\|_2}, \qquad
       \nu = \tfrac1n \sum_i \|h_i - \bar h\|_2^2

    with j the runner-up. The logits are linear in the penultimate features, so the gradient is
    :math:`w_y - w_j`, a difference of rows of the last layer; in the logits it is a difference of unit vectors.
    """
    if layer == "output":
        margins, h = output_margins(surface), surface.clean().raw.double()
        return margins / 2**0.5, _total_variation(h)
    last = surface.last_layer()
    margins = output_margins(surface)
    w, targets = last.weight.double(), surface.targets
    slopes = (w[targets] - w[runners_up(surface.clean().raw.double(), targets)]).norm(dim=1)
    if not bool((slopes > 0).all()):
        raise Unsupported(f"two rows of '{last.name}' are equal: no move of the features changes between their classes")
    return margins / slopes, _total_variation(last.features.double())


def _total_variation(h: Tensor) -> float:
    """Return the mean squared distance of activations, (n, d), from their mean; exactly 0 where all are the same."""
    d = h - h[:1]
    return float((d - d.mean(0)).square().sum(1).mean())
