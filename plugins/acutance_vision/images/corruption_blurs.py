"""Common corruptions that move or average pixels: blurs and elastic transformations of (n, c, h, w) in [0, 1]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from acutance_vision.images.common_corruptions import Draws


def gaussian_blur(x: Tensor, sd: float, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Smooth the last two axes; mode says what is outside, as in scipy."""
    from scipy.ndimage import gaussian_filter

    axes = (0,) * (x.dim() - 2)
    return torch.from_numpy(gaussian_filter(x.numpy(), sigma=(*axes, sd, sd), mode=mode, truncate=truncate))


def defocus_blur(x: Tensor, draws: Draws, parameters: tuple[float, float]) -> Tensor:
    """Average over a disk whose edge is smoothed by a Gaussian of 3 x 3 pixels."""
    radius, sd = parameters
    reach = math.ceil(radius) + 1
    axis = torch.arange(-reach, reach + 1.0)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).float()
    near = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0]) ** 2) / (2 * sd**2))
    edge = (near[:, None] * near)[None, None]
    kernel = F.conv2d((disk / disk.sum())[None, None], edge / edge.sum(), padding=1)
    channels = x.shape[1]
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


def glass_blur(x: Tensor, draws: Draws, parameters: tuple[float, int, int]) -> Tensor:
    """Let every pixel show one of its neighbours above and to the left, between two Gaussian blurs.

    The published code sets out to exchange them, but each place it has passed keeps the neighbour's colour and the
    neighbour keeps its own; so it is here.
    """
    sd, step, passes = parameters
    n, c, h, w = x.shape
    inner = (h - 2 * step, w - 2 * step)
    rows = torch.arange(step + 1, h - step + 1)[:, None]
    columns = torch.arange(step + 1, w - step + 1)
    x = gaussian_blur(x, sd)
    for _ in range(passes):
        dy, dx = draws.integers(-step, 1, 2, *inner).unbind(1)
        source = torch.arange(h * w).view(1, h, w).repeat(n, 1, 1)
        source[:, rows, columns] = (rows + dy) * w + columns + dx
        x = x.flatten(2).gather(2, source.view(n, 1, -1).expand(n, c, -1)).view_as(x)
    return gaussian_blur(x, sd)


def streak(x: Tensor, radius: int, sd: float, angle: Tensor) -> Tensor:
    """Average along a line on one side of each pixel, with weights of half a Gaussian; the edge goes on outside.

    Args:
        x: (n, c, h, w).
        radius: the line has 2 radius + 1 pixels.
        sd: of the Gaussian, pixels.
        angle: (n,) direction, radians.
    """
    n, c, h, w = x.shape
    weights = torch.exp(-(torch.arange(2 * radius + 1.0) ** 2) / (2 * sd**2))
    weights = weights / weights.sum()
    rows, columns = torch.arange(h)[None, :, None], torch.arange(w)[None, None, :]
    flat, total = x.flatten(2), torch.zeros_like(x)
    for i, weight in enumerate(weights.tolist()):
        if weight < 1e-5:
            break
        dy, dx = (i * angle.sin()).round().long(), (i * angle.cos()).round().long()
        row = (rows + dy[:, None, None]).clamp(0, h - 1)
        column = (columns + dx[:, None, None]).clamp(0, w - 1)
        place = (row * w + column).view(n, 1, h * w).expand(n, c, -1)
        total += weight * flat.gather(2, place).view_as(x)
    return total


def motion_blur(x: Tensor, draws: Draws, parameters: tuple[int, float]) -> Tensor:
    """Blur along a line of random direction, within 45 degrees of the horizontal."""
    radius, sd = parameters
    return streak(x, radius, sd, draws.uniform(-math.pi / 4, math.pi / 4))


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Enlarge the middle, corner to corner, bilinear."""
    n = len(x)
    theta = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(n, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def zoom_blur(x: Tensor, draws: Draws, largest: float) -> Tensor:
    """Average the image with its enlargements in steps of one hundredth."""
    steps = round((largest - 1) * 100)
    total = x.clone()
    for i in range(steps + 1):
        total += zoomed(x, 1 + i / 100)
    return total / (steps + 2)


def elastic_transform(x: Tensor, draws: Draws, parameters: tuple[float, float, float]) -> Tensor:
    """Move three corners of an inner square at random with the rest (an affine map), then ripple."""
    n, _, h, w = x.shape
    height, sd, shift = (min(h, w) * share for share in parameters)
    reach = min(h, w) // 3
    middle = torch.tensor([w // 2, h // 2])
    before = middle + reach * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    after = before + draws.uniform(-shift, shift, 3, 2)
    # The map back: [x', y', 1] of a moved corner times it is the corner where it was.
    back = torch.linalg.solve(torch.cat([after, torch.ones(n, 3, 1)], 2), before.expand(n, 3, 2))
    row, column = torch.meshgrid(torch.arange(h * 1.0), torch.arange(w * 1.0), indexing="ij")
    places = torch.stack([column, row, torch.ones(h, w)], -1)
    x = _sampled(x, torch.einsum("hwk,nkd->nhwd", places, back), corners=True)
    if height == 0:
        return x
    waves = gaussian_blur(draws.uniform(-1, 1, 2, h, w), sd, mode="reflect", truncate=3.0) * height
    return _sampled(x, places[..., :2] + waves.permute(0, 2, 3, 1), corners=False)


def _sampled(x: Tensor, places: Tensor, corners: bool) -> Tensor:
    """Return bilinear values at places (n, h, w, 2), in pixels; reflected about edge pixels (corners) or edges."""
    size = torch.tensor([x.shape[3], x.shape[2]])
    scaled = 2 * places / (size - 1) - 1 if corners else (2 * places + 1) / size - 1
    return F.grid_sample(x, scaled, padding_mode="reflection", align_corners=corners)
