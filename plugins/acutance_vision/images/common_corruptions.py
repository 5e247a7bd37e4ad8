"""The 15 common corruptions of Hendrycks and Dietterich (2019) at CIFAR's scale, in own code.

D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR).
Severities have the parameters that CIFAR-10-C was published with. What differs from the published images: the random
numbers, resampling by other libraries, rounding to the nearest grey value instead of down, and the textures of
``frost``, which are made by a formula here and are photographs there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acutance_vision.images import corruption_blurs as blurs
from acutance_vision.images import corruption_weather as weather
from acutance_vision.images.corruption_names import CORRUPTIONS, SEVERITIES
from acutance_vision.images.reading import in_threads, to_bytes

CHUNK = 1000  # images at a time: bounds the memory of intermediate results


class Draws:
    """Random numbers of every image of a batch, from a generator of its own: the same whatever the others are.

    Args:
        names: one for each image.
    """

    def __init__(self, names: Sequence[str]) -> None:
        seeds = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1 for name in names]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """Return standard Gaussian numbers, (n, *shape)."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers on [low, high), (n, *shape)."""
        return low + (high - low) * torch.stack([torch.rand(shape, generator=g) for g in self.generators])

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return whole numbers from low to high - 1, (n, *shape)."""
        return torch.stack([torch.randint(low, high, shape, generator=g) for g in self.generators])

    def poisson(self, rates: Tensor) -> Tensor:
        """Return Poisson numbers of these rates, (n, ...)."""
        return torch.stack([torch.poisson(rate, generator=g) for rate, g in zip(rates, self.generators, strict=True)])


def corrupted(kind: str, severity: int, images: Tensor, indices: Tensor) -> Tensor:
    """Return corrupted images, (n, 3, h, w) uint8.

    Args:
        kind: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        images: (n, 3, h, w) uint8.
        indices: (n,) numbers of the images in their set; with kind and severity they name the random numbers.

    Raises:
        ValueError: for another kind or severity.
    """
    if kind not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(f"no corruption {kind} of severity {severity}")
    function, parameters = table()[kind]
    parts = []
    for x, i in zip(images.split(CHUNK), indices.split(CHUNK), strict=True):
        draws = Draws([f"{kind}/{severity}/{int(k)}" for k in i])
        changed = function(x.float() / 255, draws, parameters[severity - 1])
        parts.append((changed.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(parts)


Corruption = Callable[[Tensor, Draws, Any], Tensor]


def gaussian_noise(x: Tensor, draws: Draws, sd: float) -> Tensor:
    """Add Gaussian noise."""
    return x + sd * draws.normal(*x.shape[1:])


def shot_noise(x: Tensor, draws: Draws, photons: float) -> Tensor:
    """Count photons: a Poisson number with this many at full intensity."""
    return draws.poisson(x * photons) / photons


def impulse_noise(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Set a share of all values to zero or one: salt and pepper."""
    hit, salt = draws.uniform(0, 1, 2, *x.shape[1:]).unbind(1)
    return torch.where(hit < share, (salt < 0.5).float(), x)


def brightness(x: Tensor, draws: Draws, rise: float) -> Tensor:
    """Raise the value of hue, saturation, value: a factor for each pixel."""
    value = x.amax(1, keepdim=True)
    raised = (value + rise).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-12), raised)


def contrast(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Shrink the distance from the mean of each channel."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def pixelate(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Shrink with a box filter and enlarge again."""

    def change(image: Any) -> Any:
        from PIL import Image

        width, height = image.size
        small = image.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
        return small.resize((width, height), Image.Resampling.BOX)

    return _with_pil(x, change)


def jpeg_compression(x: Tensor, draws: Draws, quality: int) -> Tensor:
    """Store as JPEG of this quality."""

    def change(image: Any) -> Any:
        from PIL import Image

        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return _with_pil(x, change)


def _with_pil(x: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """Return images (n, 3, h, w) in [0, 1] after a change of each as an image of Pillow."""
    from PIL import Image

    def changed(pixels: np.ndarray[Any, Any]) -> Tensor:
        return to_bytes(change(Image.fromarray(pixels)))

    rows = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return torch.stack(list(in_threads(changed, list(rows)))).float() / 255


def table() -> dict[str, tuple[Corruption, Sequence[Any]]]:
    """Return function and parameters, from severity 1 to 5, of every corruption."""
    return {
        "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
        "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
        "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
        # radius of the disk, sd of its edge
        "defocus_blur": (blurs.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
        # sd, largest step, passes
        "glass_blur": (blurs.glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
        # radius, sd
        "motion_blur": (blurs.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
        # largest zoom
        "zoom_blur": (blurs.zoom_blur, (1.05, 1.10, 1.15, 1.20, 1.25)),
        # mean and sd of the flakes, zoom, threshold, radius and sd of their fall, how much of the image stays
        "snow": (
            weather.snow,
            (
                (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
                (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
                (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
                (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
                (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
            ),
        ),
        # factors of image and frost
        "frost": (weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
        # thickness, decay of its roughness
        "fog": (weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
        "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
        "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
        # height and sd of the waves, shift of the corners, as shares of the side
        "elastic_transform": (
            blurs.elastic_transform,
            ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ),
        "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
        "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
    }
