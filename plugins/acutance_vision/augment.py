"""Random shifts and rotations of a batch of images, in one resampling."""

from __future__ import annotations

import math

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
