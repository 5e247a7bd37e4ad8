"""Common corruptions by weather: snow, frost and fog on images (n, 3, h, w) in [0, 1]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance_vision.images.corruption_blurs import streak, zoomed

if TYPE_CHECKING:
    from acutance_vision.images.common_corruptions import Draws

GREY = (0.299, 0.587, 0.114)
ICE = (0.86, 0.94, 1.0)  # colour of frost


def snow(x: Tensor, draws: Draws, parameters: tuple[float, float, float, float, int, float, float]) -> Tensor:
    """Whiten the image, and let flakes fall on it: thresholded noise, blurred along a steep line, and turned about."""
    mean, sd, zoom, threshold, radius, fall, share = parameters
    flakes = zoomed(mean + sd * draws.normal(1, *x.shape[2:]), zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = streak(flakes, radius, fall, draws.uniform(-0.75 * math.pi, -0.25 * math.pi))
    grey = torch.einsum("nchw,c->nhw", x, torch.tensor(GREY))[:, None]
    whitened = share * x + (1 - share) * torch.maximum(x, 1.5 * grey + 0.5)
    return whitened + flakes + flakes.flip(2, 3)


def plasma(draws: Draws, size: int, decay: float) -> Tensor:
    """Return plasma fractals, (n, size, size) from 0 to 1: the diamond-square algorithm on a torus.

    Args:
        draws: random numbers of each image.
        size: a power of two.
        decay: noise shrinks by its square from one scale to the next; a smaller one is rougher.
    """
    field = torch.zeros(len(draws.generators), size, size)
    step, amplitude = size, 1.0
    while step >= 2:
        half, count = step // 2, size // step
        corners = field[:, ::step, ::step]
        below, right = corners.roll(-1, 1), corners.roll(-1, 2)
        noise = amplitude * draws.uniform(-1, 1, 3, count, count)
        centres = (corners + below + right + below.roll(-1, 2)) / 4 + noise[:, 0]
        field[:, half::step, half::step] = centres
        field[:, half::step, ::step] = (corners + below + centres + centres.roll(1, 2)) / 4 + noise[:, 1]
        field[:, ::step, half::step] = (corners + right + centres + centres.roll(1, 1)) / 4 + noise[:, 2]
        step, amplitude = half, amplitude / decay**2
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return (field - low) / (high - low)


def _plasma_over(x: Tensor, draws: Draws, decay: float) -> Tensor:
    h, w = x.shape[2:]
    return plasma(draws, 2 ** math.ceil(math.log2(max(h, w))), decay)[:, None, :h, :w]


def fog(x: Tensor, draws: Draws, parameters: tuple[float, float]) -> Tensor:
    """Add a plasma fractal, and keep the largest value."""
    thickness, decay = parameters
    largest = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * _plasma_over(x, draws, decay)) * largest / (largest + thickness)


def frost(x: Tensor, draws: Draws, parameters: tuple[float, float]) -> Tensor:
    """Add ice: veins along the level lines of one fractal on patches of another. Not the published photographs."""
    share, ice = parameters
    veins = 1 - (2 * _plasma_over(x, draws, 1.5) - 1).abs()
    patches = _plasma_over(x, draws, 1.9)
    texture = (0.15 + 0.55 * patches + 0.45 * veins**3).clamp(0, 1)
    return share * x + ice * texture * torch.tensor(ICE).view(1, 3, 1, 1)
