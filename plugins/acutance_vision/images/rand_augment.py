"""RandAugment of a batch: images that draw the same operation get it together, on the device they lie on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BINS = 30  # magnitudes go from 0 to 30
Operation = Callable[[Tensor, float], Tensor]


def operations() -> dict[str, tuple[Operation, bool]]:
    """Return the 14 operations of RandAugment (Cubuk et al. 2020) with torchvision's ranges.

    Each takes images (n, 3, h, w) uint8 and a strength from 0 to 1, and says whether its direction is drawn as well:
    the strength is then negative for half of the images.
    """
    from torchvision.transforms import functional as F

    def shear(images: Tensor, x: float, y: float) -> Tensor:
        degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
        out: Tensor = F.affine(images, 0.0, [0, 0], 1.0, degrees, center=[0, 0])
        return out

    def translate(images: Tensor, x: float, y: float) -> Tensor:
        h, w = images.shape[-2:]
        out: Tensor = F.affine(images, 0.0, [int(150 / 331 * w * x), int(150 / 331 * h * y)], 1.0, [0.0, 0.0])
        return out

    return {
        "identity": (lambda images, s: images, False),
        "shear_x": (lambda images, s: shear(images, 0.3 * s, 0), True),
        "shear_y": (lambda images, s: shear(images, 0, 0.3 * s), True),
        "translate_x": (lambda images, s: translate(images, s, 0), True),
        "translate_y": (lambda images, s: translate(images, 0, s), True),
        "rotate": (lambda images, s: F.rotate(images, 30 * s), True),
        "brightness": (lambda images, s: F.adjust_brightness(images, 1 + 0.9 * s), True),
        "color": (lambda images, s: F.adjust_saturation(images, 1 + 0.9 * s), True),
        "contrast": (lambda images, s: F.adjust_contrast(images, 1 + 0.9 * s), True),
        "sharpness": (lambda images, s: F.adjust_sharpness(images, 1 + 0.9 * s), True),
        "posterize": (lambda images, s: F.posterize(images, 8 - round(4 * s)), False),
        "solarize": (lambda images, s: F.solarize(images, 255 * (1 - s)), False),
        "autocontrast": (lambda images, s: F.autocontrast(images), False),
        "equalize": (lambda images, s: equalize(images), False),
    }


def rand_augment(images: Tensor, generator: torch.Generator, rounds: int = 2, magnitude: int = 14) -> Tensor:
    """Return images (n, 3, h, w) uint8, each after random operations of RandAugment (Cubuk et al. 2020).

    Args:
        images: uint8, on any device.
        generator: the only source of randomness, on the CPU; what an image draws does not depend on its values.
        rounds: operations an image gets, one after the other, N; 2 in the paper.
        magnitude: M of 30; 14 in the paper.
    """
    table = list(operations().values())
    strength = magnitude / BINS
    for _ in range(rounds):
        which = torch.randint(len(table), (len(images),), generator=generator)
        negative = torch.rand(len(images), generator=generator) < 0.5
        out = images.clone()
        for i, (operation, signed) in enumerate(table):
            for flipped in (False, True) if signed else (False,):
                rows = ((which == i) & (negative == flipped) if signed else which == i).nonzero()[:, 0]
                if len(rows):
                    rows = rows.to(images.device)
                    out[rows] = operation(images[rows], -strength if flipped else strength)
        images = out
    return images


def equalize(images: Tensor) -> Tensor:
    """Return images (..., h, w) uint8 with the histogram of every channel made flat, as Pillow and torchvision do it.

    A grey value becomes the number of darker pixels over the step, a 255th of the pixels that are not of the
    brightest value; a channel with a step of zero stays as it is.
    """
    flat = images.flatten(-2).flatten(0, -2).long()
    histogram = torch.zeros(len(flat), 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat))
    brightest = histogram.gather(1, flat.amax(1, keepdim=True))
    step = (flat.shape[1] - brightest) // 255
    darker = histogram.cumsum(1) - histogram
    # The darkest value stays at the floor, as its table is shifted by one entry.
    table = ((darker + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table[:, 0] = 0
    return torch.where(step == 0, flat, table.gather(1, flat)).to(torch.uint8).view(images.shape)
