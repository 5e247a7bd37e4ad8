"""CIFAR-10 and CIFAR-100 in whatever layout they lie in a folder."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acutance.errors import UserError, did_you_mean
from acutance.io.parquet import parquet_files, read_columns
from acutance_vision.datasets.pickles import read_batch
from acutance_vision.images.reading import encoded, hidden, small_images

SIDE, PIXELS = 32, 3 * 32 * 32
IMAGES = ("img", "image", "images", "png", "jpg")  # columns of Parquet files
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

NAMES = {
    10: "airplane automobile bird cat deer dog frog horse ship truck".split(),
    100: """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split(),
}  # fmt: skip

Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Layout:
    """A way of storing the set: where its files would be, and how they are read."""

    text: str
    files: Callable[[Path, str, int], list[Path]]
    read: Callable[[list[Path], int], Images]


def read_folder(root: Path, part: str, classes: int = 10) -> Images:
    """Return ((n, 3, 32, 32) uint8, (n,) int64) in the order of the files.

    Args:
        root: folder; the first layout found is read: batches for Python, binary batches, Parquet, class folders.
        part: ``train`` or ``test``.
        classes: 10 or 100.

    Raises:
        UserError: for a folder that is missing, in no known layout, incomplete or damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder", "give the folder of the data set as root")
    for layout in LAYOUTS:
        files = layout.files(root, part, classes)
        if files:
            images, labels = layout.read(files, classes)
            return images, _checked(labels, files[0], classes)
    message = f"{root}: holds no {part} part of CIFAR-{classes} in a known layout"
    raise UserError(message, "known: " + "; ".join(layout.text for layout in LAYOUTS))


def _checked(labels: Tensor, where: Path, classes: int) -> Tensor:
    if len(labels) == 0:
        raise UserError(f"{where}: holds no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"{where}: has label {low if low < 0 else high}, but the classes are 0 to {classes - 1}")
    return labels


def _all_or_none(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """Return the files of these names from the first folder that has one of them.

    Raises:
        UserError: when it does not have all.
    """
    for folder in folders:
        files = [folder / name for name in names]
        missing = [path.name for path in files if not path.is_file()]
        if not missing:
            return files
        if len(missing) < len(names):
            raise UserError(f"{folder}: {', '.join(missing)} is missing", "unpack the archive again")
    return []


def _batch_names(part: str, classes: int, suffix: str = "") -> list[str]:
    if classes == 100:
        return [part + suffix]
    return [f"data_batch_{i}{suffix}" for i in range(1, 6)] if part == "train" else ["test_batch" + suffix]


def _pickled_files(root: Path, part: str, classes: int) -> list[Path]:
    folder = "cifar-10-batches-py" if classes == 10 else "cifar-100-python"
    return _all_or_none((root, root / folder), _batch_names(part, classes))


def _read_pickled(files: list[Path], classes: int) -> Images:
    """Return images and labels of the batches for Python."""
    images, labels = [], []
    for path in files:
        batch = read_batch(path)
        key = "labels" if classes == 10 else "fine_labels"
        pixels, numbers = batch.get("data"), batch.get(key)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
            raise UserError(f"{path}: 'data' is no array of {PIXELS} bytes an image", "unpack the archive again")
        if not isinstance(numbers, list) or not all(type(label) is int for label in numbers):
            raise UserError(f"{path}: '{key}' is no list of class numbers", f"is it CIFAR-{classes}?")
        if len(numbers) != len(pixels):
            raise UserError(f"{path}: {len(pixels)} images, but {len(numbers)} labels", "unpack the archive again")
        images.append(torch.from_numpy(pixels.copy()).view(-1, 3, SIDE, SIDE))
        labels.append(torch.tensor(numbers, dtype=torch.int64))
    return torch.cat(images), torch.cat(labels)


def unpack(archive: Path, folder: Path, classes: int) -> None:
    """Take the batches for Python out of the published archive, and nothing else, all or nothing.

    Raises:
        UserError: for a damaged archive, or one without the batches.
    """
    names = {name for part in ("train", "test") for name in _batch_names(part, classes)}
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = Path(member.name).name
                if member.isfile() and name in names and (source := members.extractfile(member)):
                    (partial / name).write_bytes(source.read())
                    names.discard(name)
        if names:
            raise UserError(f"{archive}: does not hold {', '.join(sorted(names))}", f"delete {archive} and try again")
        if not folder.is_dir():  # another process may have been faster
            os.replace(partial, folder)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive}: cannot be unpacked: {error}", f"delete {archive} and try again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _binary_files(root: Path, part: str, classes: int) -> list[Path]:
    folder = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    return _all_or_none((root, root / folder), _batch_names(part, classes, ".bin"))


def _read_binary(files: list[Path], classes: int) -> Images:
    """Return images and labels of the binary batches: a row of labels and pixels for each image."""
    head = 1 if classes == 10 else 2  # CIFAR-100: the superclass, then the class
    rows = []
    for path in files:
        data = np.fromfile(path, np.uint8)
        if len(data) % (head + PIXELS):
            raise UserError(f"{path}: {len(data)} bytes are no whole number of images", "unpack the archive again")
        rows.append(torch.from_numpy(data).view(-1, head + PIXELS))
    together = torch.cat(rows)
    return together[:, head:].reshape(-1, 3, SIDE, SIDE), together[:, head - 1].long()


def _parquet(root: Path, part: str, classes: int) -> list[Path]:
    return parquet_files(root, part)


def _read_parquet(files: list[Path], classes: int) -> Images:
    """Return images and labels of Parquet shards in the layout of the Hugging Face hub."""
    wanted = [IMAGES, ["label", "labels"] if classes == 10 else ["fine_label", "label"]]
    cells, labels = (column.to_pylist() for column in read_columns(files, wanted))
    if not all(type(label) is int for label in labels):
        raise UserError(f"{files[0]}: its labels are no class numbers")
    names = [f"{files[0]}: image {i}" for i in range(len(cells))]
    sources = [(name, encoded(cell, name)) for name, cell in zip(names, cells, strict=True)]
    return small_images(sources, SIDE) if sources else torch.empty(0, 3, SIDE, SIDE), torch.tensor(labels)


def _class_files(root: Path, part: str, classes: int) -> list[Path]:
    folder = root / part
    return [folder] if folder.is_dir() and any(path.is_dir() for path in folder.iterdir()) else []


def _read_classes(files: list[Path], classes: int) -> Images:
    """Return images and labels of class folders, which are called by class names or numbers."""
    folder = files[0]
    names, sources, labels = NAMES[classes], [], []
    numbers = {str(i): i for i in range(classes)} | {f"{i:02d}": i for i in range(classes)}
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path.name)):
        label = names.index(inside.name) if inside.name in names else numbers.get(inside.name)
        if label is None:
            raise UserError(f"{inside}: is no class of CIFAR-{classes}", did_you_mean(inside.name, names))
        every = (path for path in inside.iterdir() if path.suffix.lower() in SUFFIXES)
        images = sorted(path for path in every if not hidden(path.name))
        sources += [(str(path), path) for path in images]
        labels += [label] * len(images)
    if not sources:
        raise UserError(f"{folder}: its class folders hold no images", "known: " + ", ".join(SUFFIXES))
    return small_images(sources, SIDE), torch.tensor(labels)


LAYOUTS = (
    _Layout("the batches for Python (data_batch_1 ..., or train and test of CIFAR-100)", _pickled_files, _read_pickled),
    _Layout("the binary batches (data_batch_1.bin ...)", _binary_files, _read_binary),
    _Layout("Parquet (train.parquet or train-00000-of-00001.parquet, also in data/)", _parquet, _read_parquet),
    _Layout("class folders (train/airplane/*.png ...)", _class_files, _read_classes),
)
