r"""Convolutions as linear operators on a periodic grid, by their Fourier transform (Sedghi, Gupta & Long 2019).

On a grid of n points an axis a circular convolution acts on every frequency :math:`\omega` by itself, as the (out, in)
matrix

.. math:: \hat K(\omega) = \sum_t K_t\, e^{-2 \pi i \langle \omega, t \rangle / n},

so its norm is :math:`\max_\omega \|\hat K(\omega)\|_2`. A stride s leaves every s-th point, which adds up the s
frequencies an axis that look alike there: the block of such frequencies is
:math:`[\hat K(\omega_1) \dots \hat K(\omega_{s^d})] / s^{d/2}`. A transposed convolution is the adjoint, of equal norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_classic.weights.weight_matrices import Convolution

ENTRIES = 1 << 22  # complex numbers that are held at once


def operator_squares(kernel: Tensor, layer: Convolution, size: int, name: str) -> tuple[float, float]:
    """Return the squared spectral and Frobenius norms of a convolution on a periodic grid.

    Args:
        kernel: (out, in/groups, taps ...), as stored.
        layer: for its stride, dilation and groups.
        size: points of the grid an axis.
        name: of the parameter, for messages.

    Raises:
        Unsupported: when the stride does not divide the grid.
    """
    if any(size % s for s in layer.stride):
        raise Unsupported(
            f"'{name}' has the stride {max(layer.stride)}, which does not divide size = {size}: on a periodic grid the "
            "convolution is not defined; choose another size"
        )
    largest = total = 0.0
    for part in kernel.double().chunk(layer.groups):
        for blocks in _blocks(part, layer, size):
            gram = blocks @ blocks.mH if blocks.shape[1] <= blocks.shape[2] else blocks.mH @ blocks
            largest = max(largest, float(torch.linalg.eigvalsh(gram)[:, -1].max()))
            total += float(blocks.abs().square().sum())
    return largest, total


def _blocks(kernel: Tensor, layer: Convolution, size: int) -> Iterator[Tensor]:
    """Yield the blocks that the operator consists of, (frequencies, out, in · aliases), some at a time."""
    axes = kernel.dim() - 2
    taps = _grid([torch.arange(k) * d for k, d in zip(kernel.shape[2:], layer.dilation[:axes], strict=True)])
    coarse = _grid([torch.arange(size // s) for s in layer.stride])
    aliases = _grid([torch.arange(s) * (size // s) for s in layer.stride])
    flat = kernel.flatten(2).to(torch.complex128)  # (out, in, taps)
    rows = max(1, ENTRIES // (flat[..., 0].numel() * len(aliases)))
    for few in coarse.split(rows):
        omega = few[:, None] + aliases  # (frequencies, aliases, axes)
        angles = (omega @ taps.T).remainder(size).double() * (-2 * math.pi / size)
        waves = torch.polar(torch.ones_like(angles), angles).to(flat.device)
        blocks = torch.einsum("oit,fat->foia", flat, waves).flatten(2)
        yield blocks / math.sqrt(len(aliases))


def _grid(axes: list[Tensor]) -> Tensor:
    """Return all points of a product of axes, (points, axes)."""
    return torch.cartesian_prod(*axes).view(-1, len(axes))
