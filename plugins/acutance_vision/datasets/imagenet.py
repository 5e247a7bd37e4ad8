"""ImageNet and its distribution shifts, from the user's folders."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean, some
from acutance.io.folders import data_folder
from acutance_vision.datasets.image_spec import FolderSpec
from acutance_vision.datasets.imagefolder import read_names

if TYPE_CHECKING:
    from torch import Tensor

    from acutance_vision.datasets.folders import Prepare

# Under ACUTANCE_DATA, by the names that the archives unpack to.
PUBLISHED = {
    "v2": "imagenetv2-matched-frequency-format-val", "r": "imagenet-r", "sketch": "sketch", "a": "imagenet-a",
    "objectnet": "objectnet-1.0/images",
}  # fmt: skip
SUBSETS = ("r", "a")


class ImageNetSpec(FolderSpec):
    """Settings of imagenet."""

    root: str | None = None
    """Folder of train and val; without it ACUTANCE_DATA/imagenet of the environment. Paths enter no key."""
    train: str = "train"
    """Folder of the training images, in root or absolute, with one folder for each WordNet id."""
    val: str = "val"
    """Folder of the validation images, the split test, laid out in the same way."""
    v2: str | None = None
    """Folder of ImageNet-V2, with folders 0 to 999; without it the published name under ACUTANCE_DATA."""
    r: str | None = None
    """Folder of ImageNet-R: 200 WordNet ids."""
    sketch: str | None = None
    """Folder of ImageNet-Sketch: 1000 WordNet ids."""
    a: str | None = None
    """Folder of ImageNet-A: 200 WordNet ids."""
    objectnet: str | None = None
    """Folder of ObjectNet's images: a folder for each of its classes."""
    objectnet_map: str | None = None
    """JSON file {folder of ObjectNet: [WordNet ids or class numbers]}; its other folders are left out."""
    objectnet_border: NonNegativeInt = 2
    """Pixels that are cut off ObjectNet's images on each side: they have a red border."""
    classes: str | None = None
    """File of the WordNet ids in the models' order, one a line (its first word); without it that of ILSVRC 2012."""


class ImageNet(Dataset[ImageNetSpec]):
    """ImageNet with V2, R, Sketch, A and ObjectNet, from the user's folders; decoded when looked at.

    Splits: ``train``; ``test`` (the validation images); ``v2``, ``sketch``: all classes; ``r``, ``a``: predictions are
    restricted to their 200 classes; ``objectnet``: a class of ObjectNet is as likely as the most likely of the ImageNet
    classes it is mapped to (Wortsman et al. 2022). Inputs are (n, 3, size, size).
    """

    name = "imagenet"
    splits = ("train", "test", *PUBLISHED)

    def open(self, split: str) -> Split:
        """Return a split; no image is opened yet.

        Raises:
            UserError: for an unknown split, missing folders, or folders that are no class of ImageNet.
        """
        from acutance_vision.datasets.folders import class_names, listed
        from acutance_vision.datasets.scores import Restricted

        if split not in self.splits:
            raise UserError(f"imagenet has no split '{split}'", did_you_mean(split, self.splits))
        folder = self._folder(split)
        names = class_names(folder)
        if split == "objectnet":
            return self._objectnet(folder, names)
        labels = {name: self._class(name, folder) for name in names}
        images = listed(folder, labels).first(self.spec.train_points if split == "train" else self.spec.limit)
        if split in SUBSETS:
            return images.split(split, self._prepare, Restricted(list(labels.values())))
        return images.split(split, self._prepare)

    def _folder(self, split: str) -> Path:
        if split in PUBLISHED:
            return data_folder(self.name, getattr(self.spec, split), PUBLISHED[split], split)
        chosen = Path(self.spec.train if split == "train" else self.spec.val).expanduser()
        return chosen if chosen.is_absolute() else data_folder(self.name, self.spec.root) / chosen

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Class number of every WordNet id."""
        if self.spec.classes is not None:
            names = read_names(self.spec.classes)
        else:
            from timm.data.imagenet_info import ImageNetInfo

            names = list(ImageNetInfo().label_names())
        return {name: i for i, name in enumerate(names)}

    def _class(self, name: str, folder: Path) -> int:
        """Return the number of a class folder, named by WordNet id or by number."""
        if name in self._numbers:
            return self._numbers[name]
        if name.isdecimal() and int(name) < len(self._numbers):
            return int(name)
        message = f"{folder / name}: is neither a WordNet id of ImageNet nor a number below {len(self._numbers)}"
        raise UserError(message, did_you_mean(name, list(self._numbers)) if name.startswith("n0") else "move it away")

    def _objectnet(self, folder: Path, names: list[str]) -> Split:
        """Return the images of ObjectNet, without their border, scored by groups of ImageNet's classes."""
        from acutance_vision.datasets.folders import listed
        from acutance_vision.datasets.scores import Grouped

        groups = self._objectnet_groups()
        missing = [name for name in groups if name not in names]
        if missing:
            raise UserError(f"{folder}: has no folder {some(missing)}, which dataset.objectnet_map names", "check both")
        score = Grouped(list(groups.values()))
        labels = dict(zip(groups, score.targets, strict=True))
        border, prepare = self.spec.objectnet_border, self._prepare

        def cut(image: Any) -> Tensor:
            return prepare(image.crop((border, border, image.width - border, image.height - border)))

        return listed(folder, labels).first(self.spec.limit).split("objectnet", cut, score)

    def _objectnet_groups(self) -> dict[str, list[int]]:
        """Return the class numbers of every folder that the map names."""
        path = self.spec.objectnet_map
        if path is None:
            raise UserError(
                "split 'objectnet' needs dataset.objectnet_map",
                'give a JSON file {"folder": ["n02123045", ...]} with the ImageNet classes of each folder',
            )
        where = f"dataset.objectnet_map: {path}"
        try:
            folders = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: cannot be read: {error}", "give a JSON file") from None
        classes = folders.values() if isinstance(folders, dict) else ()
        if not classes or not all(isinstance(ids, list) and ids for ids in classes):
            raise UserError(f"{where}: is no mapping from folders to lists", '{"folder": ["n02123045", ...]}')
        groups = {}
        for folder, ids in folders.items():
            wrong = [i for i in ids if not self._is_class(i)]
            if wrong:
                raise UserError(f"{where}: {folder}: {wrong[0]!r} is no class of ImageNet", "WordNet ids or numbers")
            groups[folder] = [i if type(i) is int else self._numbers[i] for i in ids]
        return groups

    def _is_class(self, one: object) -> bool:
        return 0 <= one < len(self._numbers) if type(one) is int else one in self._numbers

    @cached_property
    def _prepare(self) -> Prepare:
        from acutance_vision.datasets.folders import preparation

        return preparation(self.spec)
