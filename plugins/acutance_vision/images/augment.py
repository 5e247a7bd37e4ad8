"""Random shifts, rotations, crops and mirroring of a batch of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT, ROTATION = 2.0, math.radians(10)  # pixels, radians


def shift_and_rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (n, c, h, w), half of them moved by up to 2 pixels and turned by up to 10 degrees.

    Those left alone keep the training error on the clean images, by which models are admitted, within reach of
    small networks. Outside is black; normalized images have black below zero, so they are lifted before the
    resampling and lowered after it.
    """
    n, _, h, w = images.shape
    u = torch.rand(3, n, generator=generator).mul_(2).sub_(1)
    u = (u * (torch.rand(n, generator=generator) < 0.5)).to(images)
    angle = u[0] * ROTATION
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos, -sin * h / w, u[1] * SHIFT * 2 / w, sin * w / h, cos, u[2] * SHIFT * 2 / h], dim=1).view(
        n, 2, 3
    )
    black = images.amin()
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - black, grid, align_corners=False) + black


def crop_and_mirror(images: Tensor, generator: torch.Generator, black: Sequence[float], padding: int = 4) -> Tensor:
    """Return images (n, c, h, w) cut at a random place after padding, half of them mirrored.

    Args:
        images: normalized images.
        generator: the only source of randomness.
        black: what the padding is filled with, one value a channel.
        padding: pixels on each side.
    """
    n, _, h, w = images.shape
    corner = torch.randint(0, 2 * padding + 1, (2, n), generator=generator).to(images.device)
    mirrored = (torch.rand(n, generator=generator) < 0.5).to(images.device)
    fill = torch.tensor(list(black), dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    # Zero outside and lifted by black: padding with another value in each channel.
    padded = F.pad(images - fill, (padding,) * 4)
    rows = corner[0][:, None] + torch.arange(h, device=images.device)
    columns = torch.arange(w, device=images.device).expand(n, w)
    columns = corner[1][:, None] + torch.where(mirrored[:, None], w - 1 - columns, columns)
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2) + fill
