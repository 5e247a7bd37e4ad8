"""Images in class folders: listed at once, decoded when they are looked at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acutance.data.lazy import Lazy
from acutance.dataset import Split, argmax_error
from acutance.errors import UserError, some
from acutance_vision.datasets.image_spec import ImageSpec
from acutance_vision.images.reading import hidden, in_turn, lazily, open_rgb

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
Prepare = Callable[[Any], Tensor]


def preparation(spec: ImageSpec) -> Prepare:
    """Return the function from an RGB image to the tensor (3, size, size) that models see, as timm evaluates them.

    Raises:
        UserError: when ``data_config`` names no timm model.
    """
    from timm.data.transforms_factory import create_transform

    settings: dict[str, Any] = {
        "input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    if spec.data_config is not None:
        settings |= _timm_config(spec.data_config)
    names = ("crop_pct", "crop_mode", "interpolation", "mean", "std")
    settings |= {name: value for name in names if (value := getattr(spec, name)) is not None}
    if spec.size is not None:
        settings["input_size"] = (3, spec.size, spec.size)
    if spec.grey:
        settings |= {"mean": settings["mean"][:1], "std": settings["std"][:1]}
    transform: Prepare = create_transform(**settings, is_training=False)
    return (lambda image: transform(image.convert("L"))) if spec.grey else transform


def _timm_config(name: str) -> dict[str, Any]:
    """Return the settings with which timm evaluates a model.

    Raises:
        UserError: when timm has no such model.
    """
    import timm
    from timm.data.config import resolve_data_config

    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        raise UserError(f"dataset.data_config: timm has no model '{name}'", "see timm.list_models()")
    settings: dict[str, Any] = resolve_data_config({}, pretrained_cfg=config.to_dict())
    return settings


@dataclass(frozen=True)
class Images:
    """Files of images with their labels.

    Attributes:
        folder: what the names are relative to.
        names: (n) relative paths.
        labels: (n,) class indices.
        skipped: hidden files that lie beside them.
    """

    folder: Path
    names: Sequence[str]
    labels: Tensor
    skipped: Sequence[str] = ()

    def first(self, count: int | None) -> Images:
        """Return at most this many, classes in turn, each in the order of its names."""
        rows = in_turn(self.labels, count)
        return Images(self.folder, [self.names[i] for i in rows.tolist()], self.labels[rows], self.skipped)

    @cached_property
    def digest(self) -> str:
        """Names the choice: the sha256 of the paths in their order."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def inputs(self, prepare: Prepare) -> Lazy:
        """Return the images, each decoded and prepared when it is looked at."""

        def one(i: int) -> Tensor:
            path = self.folder / self.names[i]
            return prepare(open_rgb(path, str(path)))

        return lazily(one, torch.arange(len(self.names)))

    def split(self, name: str, prepare: Prepare, score: Callable[[Tensor, Tensor], Tensor] = argmax_error) -> Split:
        """Return them as a split, described by their number and the digest of the choice."""
        text = f"{len(self.names)} images, {name}, index {self.digest[:12]}"
        notes = (f"hidden files are skipped: {some(self.skipped)}",) if self.skipped else ()
        return Split(self.inputs(prepare), self.labels, score, text, notes=notes)


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted; as numbers where all are.

    Raises:
        UserError: for a folder that is missing or holds no folders.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "check the path in the study, or unpack the archive there")
    names = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    if not names:
        raise UserError(f"{folder}: holds no class folders", "sort the images into a folder for each class")
    return sorted(names, key=lambda name: (int(name), name) if all(n.isdecimal() for n in names) else (0, name))


def listed(folder: Path, labels: Mapping[str, int]) -> Images:
    """Return the images of class folders, in the order of the labels and then of their names; hidden files are none.

    Args:
        folder: holds the class folders.
        labels: class of each folder that is wanted; the others are left out.

    Raises:
        UserError: when there are no images.
    """
    names: list[str] = []
    targets: list[int] = []
    skipped: list[str] = []
    for inside, label in sorted(labels.items(), key=lambda item: (item[1], item[0])):
        # Names alone: a training set has more than a million of them.
        every = sorted(name for name in os.listdir(folder / inside) if name.lower().endswith(SUFFIXES))
        files = [name for name in every if not hidden(name)]
        skipped += [f"{inside}/{name}" for name in every if hidden(name)]
        names += [f"{inside}/{name}" for name in files]
        targets += [label] * len(files)
    if not names:
        raise UserError(f"{folder}: its class folders hold no images", "known: " + ", ".join(SUFFIXES))
    return Images(folder, names, torch.tensor(targets, dtype=torch.int64), skipped)
