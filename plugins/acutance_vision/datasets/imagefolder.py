"""Images in class folders, any number of test sets."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.io.folders import data_folder
from acutance_vision.datasets.image_spec import FolderSpec, Further

if TYPE_CHECKING:
    from acutance_vision.datasets.folders import Prepare


class ImageFolderSpec(FolderSpec):
    """Settings of imagefolder."""

    root: str | None = None
    """Folder of the splits; without it ACUTANCE_DATA/imagefolder of the environment. It enters no key."""
    train: str = "train"
    """Folder of the training images, in root or absolute, with a folder for each class: their sorted names."""
    test: str = "test"
    """Folder of the test images, with folders of the same names."""
    ood: Further = None
    """More splits: {name: folder, in root or absolute}."""
    classes: str | None = None
    """File of class names in their order, one a line (its first word); without it the training folder's."""
    restrict: bool = False
    """Whether on a split that has only some of the classes only these may be predicted."""


class ImageFolder(Dataset[ImageFolderSpec]):
    """Images in class folders; resized, cut and normalized as timm's data config says, decoded when looked at.

    Splits: ``train``, ``test`` and those of ``ood``. Inputs are (n, 3, size, size).
    """

    name = "imagefolder"

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The splits that the settings name."""
        return ("train", "test", *(self.spec.ood or {}))

    def open(self, split: str) -> Split:
        """Return a split; no image is opened yet.

        Raises:
            UserError: for an unknown split, missing folders, or class folders that the training images do not have.
        """
        from acutance_vision.datasets.folders import class_names, listed
        from acutance_vision.datasets.scores import Restricted

        if split not in self.splits:
            raise UserError(f"imagefolder has no split '{split}'", did_you_mean(split, self.splits))
        folder = self._folder(split)
        numbers = {name: i for i, name in enumerate(self._classes)}
        labels = {name: _class_number(name, numbers, folder) for name in class_names(folder)}
        images = listed(folder, labels).first(self.spec.train_points if split == "train" else self.spec.limit)
        if self.spec.restrict and len(labels) < len(numbers):
            return images.split(split, self._prepare, Restricted(list(labels.values())))
        return images.split(split, self._prepare)

    def _folder(self, split: str) -> Path:
        spec = self.spec
        chosen = Path({"train": spec.train, "test": spec.test, **(spec.ood or {})}[split]).expanduser()
        return chosen if chosen.is_absolute() else data_folder(self.name, spec.root) / chosen

    @cached_property
    def _classes(self) -> list[str]:
        from acutance_vision.datasets.folders import class_names

        return class_names(self._folder("train")) if self.spec.classes is None else read_names(self.spec.classes)

    @cached_property
    def _prepare(self) -> Prepare:
        from acutance_vision.datasets.folders import preparation

        return preparation(self.spec)


def _class_number(name: str, numbers: dict[str, int], folder: Path) -> int:
    """Return the number of a class folder, which the training images must have."""
    if name not in numbers:
        message = f"{folder / name}: is no class of the training images"
        raise UserError(message, did_you_mean(name, list(numbers)))
    return numbers[name]


def read_names(path: str) -> list[str]:
    """Return the first word of every line of a file.

    Raises:
        UserError: for a file that cannot be read, is empty or names a class twice.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.classes: {path}: cannot be read: {error}", "give a text file") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"dataset.classes: {path}: names no class", "write one class a line")
    twice: list[Any] = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"dataset.classes: {path}: names {twice[0]} twice", "write every class once")
    return names
