"""Tables of images in the layouts of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean, some
from acutance.io.parquet import parquet_files, read_columns
from acutance_vision.datasets.image_spec import FolderSpec, Further

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class HuggingFaceSpec(FolderSpec):
    """Settings of huggingface."""

    path: str | None = None
    """Folder of .parquet, .arrow or .jsonl files, or a data set of the hub that is in the cache of datasets."""
    config: str | None = None
    """Configuration of a data set of the hub."""
    image: str = "image"
    """Column of the images: their bytes, or in .jsonl paths beside the file."""
    label: str = "label"
    """Column of the labels: class numbers, or words, whose sorted training values are the classes."""
    train: str = "train"
    """Part that has the training images."""
    test: str = "test"
    """Part that has the test images."""
    ood: Further = None
    """More splits: {name: part}."""


class HuggingFace(Dataset[HuggingFaceSpec]):
    """Images in Parquet, Arrow or JSON lines, or a data set that the package datasets holds; nothing is downloaded.

    Splits: ``train``, ``test`` and those of ``ood``. Inputs are (n, 3, size, size), prepared as imagefolder's.
    """

    name = "huggingface"

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The splits that the settings name."""
        return ("train", "test", *(self.spec.ood or {}))

    def open(self, split: str) -> Split:
        """Return a split; images are decoded when they are looked at.

        Raises:
            UserError: for an unknown split, files that are missing or damaged, or columns that are not there.
        """
        from acutance_vision.datasets.folders import preparation
        from acutance_vision.images.reading import in_turn, lazily, open_rgb

        if split not in self.splits:
            raise UserError(f"huggingface has no split '{split}'", did_you_mean(split, self.splits))
        part = {"train": self.spec.train, "test": self.spec.test, **(self.spec.ood or {})}[split]
        cells, values = self._table(part)
        labels = self._numbers(values, part)
        count = self.spec.train_points if split == "train" else self.spec.limit
        rows = in_turn(labels, count)
        prepare = preparation(self.spec)

        def one(i: int) -> Tensor:
            return prepare(open_rgb(cells[i], f"{self.spec.path}: {part}: image {i}"))

        return Split(lazily(one, rows), labels[rows], description=f"{len(rows)} images, {part} of {self.spec.path}")

    def _table(self, part: str) -> tuple[Cells, list[Any]]:
        """Return images and labels of a part, from whatever holds them."""
        if self.spec.path is None:
            raise UserError("huggingface: nothing says where the images are", "write dataset.path: FOLDER")
        path = Path(self.spec.path).expanduser()
        if not path.exists():
            return _from_hub(self.spec, part)
        files = _files(path, part)
        if files[0].suffix == ".jsonl":
            return _from_lines(files, self.spec)

        images, labels = read_columns(files, [[self.spec.image], [self.spec.label]])
        return Cells(lambda i: images[i].as_py(), f"{path}: {part}"), labels.to_pylist()

    @cached_property
    def _classes(self) -> list[str]:
        """Words that are labels of training images, sorted."""
        return sorted({value for value in self._table(self.spec.train)[1] if isinstance(value, str)})

    def _numbers(self, values: list[Any], part: str) -> Tensor:
        """Return class numbers, (n,)."""
        import torch

        where = f"{self.spec.path}: {part}: column {self.spec.label}"
        if all(isinstance(value, str) for value in values):
            numbers = {word: i for i, word in enumerate(self._classes)}
            strange = [value for value in dict.fromkeys(values) if value not in numbers]
            if strange:
                message = f"{where}: {some(strange)}: no label of the training images"
                raise UserError(message, did_you_mean(strange[0], self._classes))
            values = [numbers[value] for value in values]
        if not values or not all(type(value) is int and value >= 0 for value in values):
            raise UserError(f"{where}: holds no class numbers for all images", "give whole numbers from 0, or words")
        return torch.tensor(values)


class Cells:
    """The images of a table, one at a time: bytes, a record with bytes, or a path."""

    def __init__(self, cell: Any, where: str) -> None:
        self.cell, self.where = cell, where

    def __getitem__(self, i: int) -> bytes | Path:
        from acutance_vision.images.reading import encoded

        value = self.cell(i)
        return value if isinstance(value, Path) else encoded(value, f"{self.where}: image {i}")


def _files(path: Path, part: str) -> list[Path]:
    """Return what the folder has for a part, which may also be the name of a file in it."""
    if path.is_file():
        hint = f"write dataset.path: {path.parent} and dataset.train: {path.name}"
        raise UserError(f"dataset.path: {path}: is a file, but train and test are different parts", hint)
    if (path / part).is_file():
        if Path(part).suffix not in (".parquet", ".arrow", ".jsonl"):
            raise UserError(f"dataset.path: {path / part}: is no .parquet, .arrow or .jsonl")
        return [path / part]
    files = parquet_files(path, part) or sorted((path / part).glob("data-*-of-*.arrow"))
    files = files or [file for file in (path / f"{part}.jsonl", path / f"{part}.arrow") if file.is_file()][:1]
    if not files:
        layouts = f"{part}.parquet, {part}-00000-of-00001.parquet (also in data/), {part}/data-*.arrow, {part}.jsonl"
        raise UserError(f"dataset.path: {path}: holds no part '{part}'", f"looked for {layouts}")
    return files


def _from_lines(files: Sequence[Path], spec: HuggingFaceSpec) -> tuple[Cells, list[Any]]:
    """Read JSON lines whose images are paths beside the file."""
    images: list[Path] = []
    labels = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read: {error}", "give text in UTF-8") from None
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                images.append(path.parent / str(row[spec.image]))
                labels.append(row[spec.label])
            except (ValueError, KeyError, TypeError):
                message = f"{path}: line {i}: is no record with {spec.image} and {spec.label}"
                raise UserError(message, "dataset.image and dataset.label name the fields") from None
    return Cells(lambda i: images[i], str(files[0])), labels


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Keep ``datasets`` from asking the hub anything, as HF_HUB_OFFLINE=1 would from the start of the process."""
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _from_hub(spec: HuggingFaceSpec, part: str) -> tuple[Cells, list[Any]]:
    """Open a data set that the package datasets has downloaded before."""
    where = f"dataset.path: {spec.path}"
    try:
        import datasets
    except ImportError:
        message = f"{where}: no such file or folder, and data sets of the hub need the package datasets"
        raise UserError(message, "check the path, or pip install datasets") from None
    try:
        with _offline(datasets):
            table = datasets.load_dataset(spec.path, spec.config, split=part)
    except Exception as error:
        hint = f"get it first: datasets.load_dataset({spec.path!r}, {spec.config!r})"
        raise UserError(f"{where}: is not in the cache of datasets: {error}", hint) from None
    for name in (spec.image, spec.label):
        if name not in table.column_names:
            raise UserError(f"{where}: has no column {name}", "its columns: " + some(list(table.column_names)))
    encoded = table.cast_column(spec.image, datasets.Image(decode=False))

    def cell(i: int) -> Any:
        image = encoded[i][spec.image]
        return Path(image["path"]) if image["bytes"] is None else image

    return Cells(cell, f"{spec.path}: {part}"), list(table[spec.label])
