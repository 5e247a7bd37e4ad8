"""CIFAR-10 and CIFAR-100, from the user's files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.io.downloads import allowed, fetch
from acutance.io.folders import cache_folder, data_folder
from acutance.spec import Spec
from acutance_vision.images.corruption_names import CORRUPTIONS, SEVERITIES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Mean = tuple[float, float, float]
Severity = Annotated[int, Field(ge=1, le=5)]
Std = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


def read_images(root: str | Path, part: str, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Return the images and labels of CIFAR-10 or CIFAR-100: (n, 3, 32, 32) uint8 and (n,) int64, in file order.

    Args:
        root: folder in one of the known layouts, which is recognised by what lies in it.
        part: ``train`` or ``test``.
        classes: 10 or 100.

    Raises:
        UserError: for a folder that is missing, in no known layout, incomplete or damaged.
    """
    from acutance_vision.datasets.cifar_files import read_folder

    return read_folder(Path(root).expanduser(), part, classes)


class CifarSpec(Spec):
    """Settings common to CIFAR-10 and CIFAR-100."""

    root: str | None = None
    """Folder of the files, in any known layout; without it ACUTANCE_DATA/NAME of the environment. It enters no key."""
    train_points: PositiveInt | None = None
    """Only this many training images, classes in turn in file order; a smaller set begins a larger one."""
    test_points: PositiveInt | None = None
    """Only this many test images, chosen in the same way."""
    severity: Severity | None = None
    """Severity of the corrupted splits, 1 to 5; all five without it."""
    corruption_points: PositiveInt | None = 1000
    """At most this many test images are corrupted, classes in turn; null: all."""
    augmentation: Literal["standard", "randaugment"] = "standard"
    """What surface.augment does: crop after padding and mirror; randaugment: and two operations of magnitude 14."""
    mean: Mean
    """Subtracted from each channel, in units of full intensity."""
    std: Std
    """Divides each channel, in units of full intensity."""


SpecT = TypeVar("SpecT", bound=CifarSpec)


class Cifar(Dataset[SpecT]):
    """What CIFAR-10 and CIFAR-100 have in common."""

    classes: ClassVar[int]
    original: ClassVar[str] = ""  # under ACUTANCE_DATA, where it is not the name
    archive: ClassVar[tuple[str, str]]  # address of the batches for Python, and digest
    splits = ("train", "test", "corruptions", *CORRUPTIONS)

    def open(self, split: str) -> Split:
        """Return a split.

        Raises:
            UserError: for an unknown split, or files that are missing or damaged.
        """
        if split not in self.splits:
            raise UserError(f"{self.name} has no split '{split}'", did_you_mean(split, self.splits))
        if split == "corruptions" or split in CORRUPTIONS:
            return self._corrupted(CORRUPTIONS if split == "corruptions" else (split,), split)
        images, labels, _ = self._train if split == "train" else self._test
        return Split(self._normalized(images), labels, description=f"{len(labels)} images, {split}")

    def _corrupted(self, kinds: Sequence[str], split: str) -> Split:
        """Return test images with these corruptions, each with the same number of images, so the error is the mean."""
        from acutance_vision.datasets.corrupted_sets import corrupted_images, joined

        images, labels, indices = self._corruptible
        severities = SEVERITIES if self.spec.severity is None else (self.spec.severity,)
        parts = [corrupted_images(kind, severity, images, indices) for kind in kinds for severity in severities]
        targets = labels.repeat(len(parts))
        description = f"{len(parts)} times {len(labels)} images, {split}"
        return Split(joined(parts, self._normalized), targets, description=description, versions=len(parts))

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (n, 3, 32, 32), cut at random after padding by 4 black pixels, half of them mirrored.

        With ``augmentation: randaugment`` two random operations follow, on whole grey values (paper, App. H).
        """
        from acutance_vision.images.augment import crop_and_mirror
        from acutance_vision.images.rand_augment import rand_augment

        cut = crop_and_mirror(inputs, generator, [-m / s for m, s in zip(self.spec.mean, self.spec.std, strict=True)])
        if self.spec.augmentation == "standard":
            return cut
        return self._normalized(rand_augment(self._bytes(cut), generator))

    def _normalized(self, images: Tensor) -> Tensor:
        """Return float images of (n, 3, 32, 32) uint8."""
        import torch

        mean, std = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in (self.spec.mean, self.spec.std))
        return (images.float() / 255).sub_(mean).div_(std)

    def _bytes(self, inputs: Tensor) -> Tensor:
        """Return the uint8 images that ``_normalized`` made these inputs of."""
        import torch

        mean, std = (torch.tensor(x, device=inputs.device).view(3, 1, 1) for x in (self.spec.mean, self.spec.std))
        return ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    @cached_property
    def _folder(self) -> Path:
        """Return the folder of the user's files, else one that was downloaded."""
        name = self.original or self.name
        try:
            return data_folder(self.name, self.spec.root, name)
        except UserError as error:
            if self.spec.root is not None:
                raise
            return self._downloaded(name, error)

    def _downloaded(self, name: str, error: UserError) -> Path:
        """Return the folder that was downloaded, now or before; without either, raise the error again."""
        from acutance_vision.datasets.cifar_files import unpack

        folder = cache_folder() / "data" / name
        if not folder.is_dir() and not allowed():
            raise UserError(error.message, f"{error.hint}, or use --allow-download") from None
        if not folder.is_dir():
            address, digest = self.archive
            archive = fetch(address, folder.with_suffix(".tar.gz"), digest)
            unpack(archive, folder, self.classes)
            archive.unlink()
        return folder

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor, Tensor]:
        return _first(*read_images(self._folder, "train", self.classes), self.spec.train_points, "train_points")

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor, Tensor]:
        return _first(*read_images(self._folder, "test", self.classes), self.spec.test_points, "test_points")

    @cached_property
    def _corruptible(self) -> tuple[Tensor, Tensor, Tensor]:
        """Test images that are corrupted, their labels, and their numbers in the file, which name the noise."""
        images, labels, indices = self._test
        count = min(self.spec.corruption_points or len(labels), len(labels))
        images, labels, rows = _first(images, labels, count, "corruption_points")
        return images, labels, indices[rows]


def _first(images: Tensor, labels: Tensor, count: int | None, field: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first images with the classes in turn, or all; with their labels and row numbers."""
    import torch

    from acutance.data.points import select

    if count is None:
        return images, labels, torch.arange(len(labels))
    if count > len(labels):
        raise UserError(f"dataset.{field}: {count} images, but there are {len(labels)}", f"lower dataset.{field}")
    rows = select(labels, count, "balanced")
    return images[rows], labels[rows], rows


class Cifar10Spec(CifarSpec):
    """Settings of cifar10."""

    mean: Mean = (0.4914, 0.4822, 0.4465)
    """Subtracted from each channel, in units of full intensity: the training set's mean."""
    std: Std = (0.2023, 0.1994, 0.2010)
    """Divides each channel: as in the paper's code, a mean over images; the set's own is (0.2470, 0.2435, 0.2616)."""


class Cifar10(Cifar[Cifar10Spec]):
    """CIFAR-10 from a folder: batches for Python or binary ones, Parquet, or class folders.

    Splits: ``train`` and ``test``; test images under each of the 15 common corruptions of Hendrycks and Dietterich
    (2019), made by this package (``gaussian_noise`` ...); ``corruptions``, all of them together, whose error is the
    mean over types. Inputs are (n, 3, 32, 32), normalized.
    """

    name = "cifar10"
    classes = 10
    archive = ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a")


class Cifar100Spec(CifarSpec):
    """Settings of cifar100."""

    mean: Mean = (0.5071, 0.4865, 0.4409)
    """Subtracted from each channel, in units of full intensity: the training set's mean."""
    std: Std = (0.2673, 0.2564, 0.2762)
    """Divides each channel: the training set's own; the paper's code would take CIFAR-10's for CIFAR-100 too."""


class Cifar100(Cifar[Cifar100Spec]):
    """CIFAR-100, fine labels, from a folder in the layouts of cifar10.

    Splits: as of cifar10. Inputs are (n, 3, 32, 32), normalized.
    """

    name = "cifar100"
    classes = 100
    archive = ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85")
