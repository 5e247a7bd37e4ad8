"""From the bytes of image files to tensors, in threads."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from acutance.data.lazy import Lazy, every_row
from acutance.data.points import select
from acutance.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
R = TypeVar("R")


def workers() -> int:
    """Return how many threads decode: one a core that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def in_threads(function: Callable[[T], R], items: Sequence[T], chunk: int = 64) -> Iterable[R]:
    """Return function of every item in order; decoders let go of the interpreter lock, so threads are enough."""
    if workers() == 1 or len(items) <= chunk:
        return [function(item) for item in items]
    parts = [items[i : i + chunk] for i in range(0, len(items), chunk)]
    with ThreadPoolExecutor(workers()) as pool:
        return [result for part in pool.map(lambda part: [function(item) for item in part], parts) for result in part]


def lazily(one: Callable[[int], Tensor], rows: Tensor) -> Lazy:
    """Return the images of these rows, each decoded by ``one`` when it is looked at."""

    def read(chosen: Tensor) -> Tensor:
        return torch.stack(list(in_threads(one, rows[chosen].tolist(), chunk=4)))

    return every_row(read, len(rows))


def in_turn(labels: Tensor, count: int | None) -> Tensor:
    """Return the rows of at most this many examples, classes in turn, each in file order; all in order without it."""
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    return select(labels, count, "balanced")


def open_rgb(source: bytes | str | Path, name: str) -> Image.Image:
    """Return an image in RGB; grey, palette and CMYK images are converted, transparency is dropped.

    Grey images of 16 bits are scaled by 255/65535, their own range.

    Raises:
        UserError: for a file that is missing, damaged or no image, or whose values have no known range.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _scaled(image, name).convert("RGB")
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: is not an image that can be read: {error}", "get the file again") from None


def _scaled(image: Image.Image, name: str) -> Image.Image:
    """Return an image whose values run to 255: Pillow would cut off what lies above."""
    from PIL import Image

    if image.mode in ("L", "1", "P") or not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    # Older versions of Pillow open a PNG of 16 bits as one of 32, which that format does not have.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if not sixteen:
        kind = f"{8 * values.dtype.itemsize}-bit {'float' if image.mode == 'F' else 'integer'}"
        raise UserError(f"{name}: its values are {kind} numbers of an unknown range", "save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def hidden(name: str) -> bool:
    """Whether a file is one that systems leave beside images: ``._0.png`` of macOS, ``.DS_Store``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def to_bytes(image: Image.Image) -> Tensor:
    """Return (3, h, w) uint8 of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def small_images(sources: Sequence[tuple[str, bytes | Path]], side: int) -> Tensor:
    """Return (n, 3, side, side) uint8 of images that have this size.

    Args:
        sources: (name for messages, bytes or file) of each image.
        side: pixels.

    Raises:
        UserError: for a damaged image, or one of another size.
    """

    def read(source: tuple[str, bytes | Path]) -> Tensor:
        image = open_rgb(source[1], source[0])
        if image.size != (side, side):
            raise UserError(f"{source[0]}: is {image.width} x {image.height} pixels, not {side} x {side}")
        return to_bytes(image)

    return torch.stack(list(in_threads(read, sources)))


def encoded(value: Any, name: str) -> bytes:
    """Return the bytes of an image cell: bytes, or a record with ``bytes``.

    Raises:
        UserError: when the cell holds no bytes; a path alone is not followed.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UserError(f"{name}: holds no bytes of an image")
    return data
