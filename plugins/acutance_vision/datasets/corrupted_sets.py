"""Corrupted images as splits: made once, kept in the cache folder, and read as they are used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acutance.data.lazy import Lazy, every_row
from acutance.io.folders import cache_folder
from acutance_vision.images.common_corruptions import corrupted

VERSION = 1  # of the corruptions: raised when their images change


def corrupted_images(kind: str, severity: int, images: Tensor, indices: Tensor) -> np.ndarray[Any, Any]:
    """Return corrupted images (n, 3, h, w) uint8, mapped into memory from a file that is made when it is missing.

    Args:
        kind: name of a corruption.
        severity: 1 to 5.
        images: (n, 3, h, w) uint8.
        indices: (n,) numbers of the images in their set.
    """
    identity = hashlib.sha256(f"{VERSION}/{tuple(images.shape)}".encode())
    identity.update(images.contiguous().numpy().data)
    identity.update(indices.contiguous().numpy().data)
    path = cache_folder() / "corruptions" / identity.hexdigest()[:20] / f"{kind}-{severity}.npy"
    pixels = _mapped(path, tuple(images.shape))
    if pixels is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved: another process that makes the same images can only replace them by their equals.
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, corrupted(kind, severity, images, indices).numpy())
        os.replace(partial, path)
        pixels = _mapped(path, tuple(images.shape))
        assert pixels is not None
    return pixels


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    """Map a file of bytes in this shape into memory; None where there is none, or a damaged one."""
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # missing or cut short: it is made again
    return array if array.shape == shape and array.dtype == np.uint8 else None


def joined(
    parts: Sequence[np.ndarray[Any, Any]], prepare: Callable[[Tensor], Tensor], channels_last: bool = False
) -> Lazy:
    """Return the images of several arrays one after the other, prepared as they are read.

    Args:
        parts: arrays (n, 3, h, w) uint8, or (n, h, w, 3) with ``channels_last``.
        prepare: (k, 3, h, w) uint8 -> what a model sees.
        channels_last: how the arrays lie.
    """
    ends = np.cumsum([len(part) for part in parts])

    def read(rows: Tensor) -> Tensor:
        wanted = rows.numpy()
        part_of = np.searchsorted(ends, wanted, side="right")
        shape = parts[0].shape[1:]
        images = np.empty((len(wanted), *shape), np.uint8)
        for i in np.unique(part_of):
            inside = part_of == i
            images[inside] = parts[i][wanted[inside] - (ends[i] - len(parts[i]))]
        pixels = torch.from_numpy(images)
        return prepare(pixels.permute(0, 3, 1, 2).contiguous() if channels_last else pixels)

    return every_row(read, int(ends[-1]))
