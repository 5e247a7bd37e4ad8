"""What the measures of single examples' gradients read: one pass over them, and labels of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

ROUNDING = 16  # times the precision of the gradients: what differs by less, relative to its size, is the same number


@dataclass(frozen=True)
class Summary:
    r"""What one pass over the gradients :math:`g_i` of n examples says, in float64; :math:`\bar g` is their mean.

    Attributes:
        n: how many examples.
        squares: (n,) :math:`\|g_i\|^2`.
        square_of_mean: :math:`\|\bar g\|^2`; 0 where it is the rounding of gradients that cancel.
        variance: :math:`\mathrm{tr}\,\Sigma = \tfrac1n \sum_i \|g_i - \bar g\|^2`.
        signal_to_noise: mean over parameters j of :math:`\bar g_j^2 / \Sigma_{jj}`; NaN where no gradient varies.
        constant: how many parameters have the same gradient at all examples, or nothing but rounding for one, and so no
            part in that mean.
        directions: :math:`\|\sum_i g_i / \|g_i\|\|^2` over the examples with a gradient.
        still: how many examples have none.
    """

    n: int
    squares: Tensor
    square_of_mean: float
    variance: float
    signal_to_noise: float
    constant: int
    directions: float
    still: int

    @property
    def mean_square(self) -> float:
        r""":math:`\tfrac1n \sum_i \|g_i\|^2`."""
        return float(self.squares.mean())


def given(view: LossSurface) -> Summary:
    """Return the summary at the surface's own targets, from one pass that all measures of the view share."""
    return view.memo("classic.example_gradients", lambda: summary(view))


@torch.no_grad()
def summary(view: LossSurface, targets: Tensor | None = None) -> Summary:
    """Return what one pass over the gradients of single examples says.

    Args:
        view: the surface, with the parameters that are meant.
        targets: as of ``surface.example_gradients``.
    """
    squares: list[Tensor] = []
    first = total = spread = directions = torch.zeros_like(view.w, dtype=torch.float64)
    for chunk in view.example_gradients(targets=targets):
        rows = chunk.double()
        norms = torch.linalg.vector_norm(rows, dim=1)
        directions = directions + norms.reciprocal().masked_fill(norms == 0, 0.0) @ rows
        if not squares:
            first = rows[0].clone()
        squares.append(norms.square())
        # Seen from the first example, gradients that are all the same have no variance, not one of rounding.
        rows = rows - first
        total = total + rows.sum(0)
        spread = spread + torch.linalg.vector_norm(rows, dim=0).square()
    every = torch.cat(squares)
    n, eps = len(every), torch.finfo(view.w.dtype).eps
    floor = (ROUNDING * eps) ** 2
    mean, variance = first + total / n, (spread - total.square() / n).clamp_min(0) / n
    sizes = mean.square() + variance
    # The gradient of a key's bias is zero but for rounding, whose signal and noise would have a ratio like any other.
    same = (variance <= floor * sizes) | (sizes <= (2 * eps) ** 2 * sizes.max())
    variance = variance.masked_fill(same, 0.0)
    ratios = (mean.square() / variance)[~same]
    square = float(mean.square().sum())
    return Summary(
        n,
        every.cpu(),
        0.0 if square <= floor * float(every.mean()) else square,
        float(variance.sum()),
        float(ratios.mean()),
        int(same.sum()),
        float(directions.square().sum()),
        int((every == 0).sum()),
    )


def sampled_labels(view: LossSurface, rng: Streams, draws: int) -> Iterator[Tensor]:
    """Yield labels drawn from the model's softmax, (n,), once a draw.

    Raises:
        Unsupported: where the targets are no classes.
    """
    if not view.classifies:
        raise Unsupported("labels are drawn from the softmax of classes, which needs the loss cross_entropy")
    edges = view.logits().double().softmax(1).cumsum(1)
    for k in range(draws):
        u = (rng.uniform("labels", k, edges[:, 0]) + 1) / 2
        yield (edges <= u[:, None]).sum(1).clamp_max(edges.shape[1] - 1)
