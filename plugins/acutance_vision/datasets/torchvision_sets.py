"""Any data set that torchvision knows, from the user's files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.io.folders import data_folder
from acutance_vision.datasets.image_spec import FolderSpec, not_usual_names

if TYPE_CHECKING:
    from torch import Tensor

Arguments = dict[str, Any]


class TorchvisionSpec(FolderSpec):
    """Settings of torchvision."""

    source: str | None = None
    """Class of torchvision.datasets, e.g. SVHN."""
    root: str | None = None
    """Folder that torchvision reads from; without it ACUTANCE_DATA/torchvision of the environment."""
    train: Arguments | None = None
    """Arguments that choose the training images; without them train: true, or split: train, as the class takes them."""
    test: Arguments | None = None
    """Arguments that choose the test images; without them train: false, or split: test."""
    ood: Annotated[dict[str, Arguments] | None, AfterValidator(not_usual_names)] = None
    """More splits: {name: arguments}."""


class Torchvision(Dataset[TorchvisionSpec]):
    """A data set of torchvision for classification, prepared as imagefolder's images; nothing is downloaded.

    Splits: ``train``, ``test`` and those of ``ood``. Inputs are (n, 3, size, size).
    """

    name = "torchvision"

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The splits that the settings name."""
        return ("train", "test", *(self.spec.ood or {}))

    def open(self, split: str) -> Split:
        """Return a split; images are decoded when they are looked at.

        Raises:
            UserError: for an unknown split or class, arguments it does not take, or files that are missing.
        """
        from acutance_vision.datasets.folders import preparation
        from acutance_vision.images.reading import in_turn, lazily

        if split not in self.splits:
            raise UserError(f"torchvision has no split '{split}'", did_you_mean(split, self.splits))
        images = self._dataset(split)
        labels = _labels(images, f"dataset.source: {self.spec.source}")
        count = self.spec.train_points if split == "train" else self.spec.limit
        rows = in_turn(labels, count)
        prepare = preparation(self.spec)

        def one(i: int) -> Tensor:
            return prepare(images[i][0].convert("RGB"))

        return Split(lazily(one, rows), labels[rows], description=f"{len(rows)} images, {self.spec.source}, {split}")

    def _dataset(self, split: str) -> Any:
        """Return torchvision's dataset of a split.

        Raises:
            UserError: for a split that nothing tells it, or whatever torchvision says of the files.
        """
        spec, target = self.spec, self._dataset_class()
        takes = inspect.signature(target).parameters
        of_split: dict[str, Any] = {"train": spec.train, "test": spec.test, **(spec.ood or {})}
        arguments = of_split[split]
        if arguments is None:
            ways = {"train": {"train": split == "train"}, "split": {"split": split}}
            arguments = next((way for name, way in ways.items() if name in takes), {})
            if not arguments:
                message = f"dataset.{split}: {spec.source} has neither an argument train nor split"
                raise UserError(message, f"write dataset.{split}: {{...}} with arguments out of {', '.join(takes)}")
        if "root" in takes:
            arguments = {"root": str(data_folder(self.name, spec.root)), **arguments}
        if "download" in takes:
            arguments = {**arguments, "download": False}
        try:
            return target(**arguments)
        except Exception as error:
            hint = f"get the files first: torchvision.datasets.{spec.source}({_shown(arguments)}, download=True)"
            raise UserError(f"dataset.source: {spec.source}({_shown(arguments)}): {error}", hint) from None

    def _dataset_class(self) -> Any:
        """Return the class in torchvision.datasets that the settings name."""
        import torchvision.datasets

        name = self.spec.source
        classes = [n for n in torchvision.datasets.__all__ if inspect.isclass(getattr(torchvision.datasets, n))]
        if name not in classes:
            problem = "nothing says which one" if name is None else f"torchvision has no '{name}'"
            raise UserError(f"dataset.source: {problem}", did_you_mean(name or "", classes))
        return getattr(torchvision.datasets, str(name))


def _shown(arguments: dict[str, Any]) -> str:
    shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if key not in ("root", "download"))
    return f"root={Path(arguments['root']).name!r}, {shown}" if "root" in arguments else shown


def _labels(images: Any, where: str) -> Tensor:
    """Return the class numbers of all images, from an attribute that agrees with the first and last, or one by one."""
    import torch

    def label(i: int) -> Any:
        return images[i][1]

    if len(images) == 0:
        raise UserError(f"{where}: has no images", "check its files")
    ends = (0, len(images) - 1)
    if not all(isinstance(label(i), int) or getattr(label(i), "ndim", 1) == 0 for i in ends):
        raise UserError(f"{where}: its targets are no class numbers, but {label(0)!r}", "choose one for classification")
    for name in ("targets", "labels", "_labels"):
        labels = getattr(images, name, None)
        if labels is not None and len(labels) == len(images) and all(int(labels[i]) == int(label(i)) for i in ends):
            return torch.as_tensor(labels).long()
    return torch.tensor([int(label(i)) for i in range(len(images))])
