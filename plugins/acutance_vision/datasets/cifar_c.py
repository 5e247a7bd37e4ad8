"""CIFAR with the published corruptions: CIFAR-10-C and CIFAR-100-C as .npy files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import PositiveInt

from acutance.dataset import Split
from acutance.errors import UserError
from acutance.io.folders import data_folder
from acutance_vision.datasets.cifar import Cifar, Cifar10, Cifar10Spec, Cifar100, Cifar100Spec, CifarSpec
from acutance_vision.images.corruption_names import SEVERITIES

if TYPE_CHECKING:
    import numpy as np

Array = Any
RELEASED_POINTS, RELEASED_SEVERITY = 1000, 5


class Cifar10CSpec(Cifar10Spec):
    """Settings of cifar10c."""

    corrupted_root: str | None = None
    """Folder of the .npy files of CIFAR-10-C; without it ACUTANCE_DATA/CIFAR-10-C."""
    selection: Literal["all", "released"] = "all"
    """all: what severity and corruption_points say; released: severity 5, 1000 of each type, as the paper's code."""
    corruption_points: PositiveInt | None = None
    """At most this many images of each type and severity, classes in turn; null: all."""


SpecT = TypeVar("SpecT", bound=CifarSpec)


class PublishedCorruptions(Cifar[SpecT]):
    """Reads corrupted images from the published layout: TYPE.npy of 5 x n images, severity after severity."""

    published: str

    def _corrupted(self, kinds: Sequence[str], split: str) -> Split:
        """Return images of these types, mapped into memory."""
        import torch

        from acutance.data.points import select
        from acutance_vision.datasets.corrupted_sets import joined

        spec: Any = self.spec
        folder = data_folder(self.name, spec.corrupted_root, self.published, "corrupted_root")
        labels = self._labels(folder)
        n = len(labels) // len(SEVERITIES)
        released = spec.selection == "released"
        severities = [RELEASED_SEVERITY] if released else [spec.severity] if spec.severity else list(SEVERITIES)
        parts, targets = [], []
        for kind in kinds:
            images = _load(folder / f"{kind}.npy", (len(labels), 32, 32, 3))
            for severity in severities:
                rows = slice((severity - 1) * n, severity * n)
                pixels: Array = images[rows]
                classes = torch.from_numpy(labels[rows].astype("int64"))
                if released:
                    pixels, classes = pixels[:RELEASED_POINTS], classes[:RELEASED_POINTS]
                elif spec.corruption_points is not None and spec.corruption_points < n:
                    chosen = select(classes, spec.corruption_points, "balanced")
                    pixels, classes = _Rows(pixels, chosen.numpy()), classes[chosen]
                parts.append(pixels)
                targets.append(classes)
        inputs = joined(parts, self._normalized, channels_last=True)
        description = f"{len(parts)} times {len(parts[0])} images, {split}"
        return Split(inputs, torch.cat(targets), description=description, versions=len(parts))

    def _labels(self, folder: Path) -> np.ndarray[Any, Any]:
        """Return the class numbers (5 n,), the same n for each severity.

        Raises:
            UserError: for a file that holds anything else.
        """
        labels = _load(folder / "labels.npy", None)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % len(SEVERITIES) or not len(labels):
            raise UserError(f"{folder / 'labels.npy'}: is no list of labels for five severities", "get the files again")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise UserError(f"{folder / 'labels.npy'}: has labels outside 0 to {self.classes - 1}")
        if (labels.reshape(len(SEVERITIES), -1) != labels[: len(labels) // len(SEVERITIES)]).any():
            raise UserError(f"{folder / 'labels.npy'}: does not repeat the same labels for each severity")
        return labels


class _Rows:
    """Some rows of an array that lies in a file, read when they are asked for."""

    def __init__(self, array: Array, rows: Array) -> None:
        self.array, self.rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: Array) -> Array:
        return self.array[self.rows[wanted]]


def _load(path: Path, shape: tuple[int, ...] | None) -> np.ndarray[Any, Any]:
    """Map a .npy file into memory; of bytes in this shape, when one is given."""
    import numpy as np

    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "unpack the archive again") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as .npy: {error}", "unpack the archive again") from None
    if shape is not None and (array.shape != shape or array.dtype != np.uint8):
        message = f"{path}: holds {array.dtype} of shape {array.shape}, not uint8 of shape {shape}"
        raise UserError(message, "unpack the archive again")
    return array


class Cifar10C(PublishedCorruptions[Cifar10CSpec]):
    """CIFAR-10 with the published corrupted test images, CIFAR-10-C (Hendrycks and Dietterich 2019).

    Splits: ``train`` and ``test`` as of cifar10; each of the 15 types; ``corruptions``, all of them together, whose
    error is the mean over types. Inputs are (n, 3, 32, 32), normalized.
    """

    name = "cifar10c"
    classes = 10
    archive = Cifar10.archive
    published = "CIFAR-10-C"
    original = "cifar10"


class Cifar100CSpec(Cifar100Spec):
    """Settings of cifar100c."""

    corrupted_root: str | None = None
    """Folder of the .npy files of CIFAR-100-C; without it ACUTANCE_DATA/CIFAR-100-C."""
    selection: Literal["all", "released"] = "all"
    """all: what severity and corruption_points say; released: severity 5, first 1000 of each type."""
    corruption_points: PositiveInt | None = None
    """At most this many images of each type and severity, classes in turn; null: all."""


class Cifar100C(PublishedCorruptions[Cifar100CSpec]):
    """CIFAR-100 with the published corrupted test images, CIFAR-100-C; splits as of cifar10c."""

    name = "cifar100c"
    classes = 100
    archive = Cifar100.archive
    published = "CIFAR-100-C"
    original = "cifar100"
