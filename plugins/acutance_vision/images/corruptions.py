"""Mild, deterministic corruptions of grey images in [0, 1], (n, 1, h, w)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def corrupt(name: str, images: Tensor) -> Tensor:
    """Return corrupted images, the same at every call.

    Args:
        name: noise (Gaussian, sd 0.2), blur (Gaussian, sd 1.3 pixels), contrast (halved, black raised to 0.1), shift (2
            pixels along both axes, direction by index), elastic (smooth displacements of about 1.3 pixels).
        images: (n, 1, h, w) in [0, 1].
    """
    result: Tensor = {"noise": _noise, "blur": _blur, "contrast": _contrast, "shift": _shift, "elastic": _elastic}[
        name
    ](images)
    return result.clamp(0, 1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(images: Tensor) -> Tensor:
    return images + 0.2 * torch.randn(images.shape, generator=_generator(1))


def _kernel(sd: float) -> Tensor:
    x = torch.arange(-4.0, 5.0)
    k = torch.exp(-(x**2) / (2 * sd**2))
    return k / k.sum()


def _smooth(fields: Tensor, sd: float) -> Tensor:
    """Gaussian smoothing of (n, 1, h, w), separable, edges replicated."""
    k = _kernel(sd)
    padded = F.pad(fields, (4, 4, 4, 4), mode="replicate")
    return F.conv2d(F.conv2d(padded, k.view(1, 1, 1, 9)), k.view(1, 1, 9, 1))


def _blur(images: Tensor) -> Tensor:
    return _smooth(images, 1.3)


def _contrast(images: Tensor) -> Tensor:
    return 0.5 * images + 0.1


def _shift(images: Tensor) -> Tensor:
    shifted = images.clone()
    for i, (dy, dx) in enumerate([(2, 2), (2, -2), (-2, 2), (-2, -2)]):
        shifted[i::4] = torch.roll(images[i::4], (dy, dx), (2, 3))
    return shifted


def _elastic(images: Tensor) -> Tensor:
    n, _, h, w = images.shape
    field = torch.randn(2 * n, 1, h, w, generator=_generator(2))
    field = _smooth(field, 3.0)
    field = field / field.std() * (1.3 * 2 / w)  # displacement in grid units, which run from -1 to 1
    base = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, base + field.view(n, 2, h, w).permute(0, 2, 3, 1), align_corners=False)
