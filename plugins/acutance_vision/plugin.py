"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl
from acutance_vision.arrays import Arrays
from acutance_vision.augreg import SteinerAugReg
from acutance_vision.checkpoints_pool import Checkpoints
from acutance_vision.cifar import Cifar10, Cifar100
from acutance_vision.cifar_c import Cifar10C, Cifar100C
from acutance_vision.cifar_pool import Cifar10Trained
from acutance_vision.hub_sets import HuggingFace
from acutance_vision.imagefolder import ImageFolder
from acutance_vision.imagenet import ImageNet
from acutance_vision.mnist import Mnist5k
from acutance_vision.pools import MnistResNet, MnistViT
from acutance_vision.soups import ClipSoups
from acutance_vision.timm_pool import Timm
from acutance_vision.torchvision_sets import Torchvision


@hookimpl
def register_datasets() -> list[type]:
    """Return the image datasets."""
    return [Mnist5k, Cifar10, Cifar100, Cifar10C, Cifar100C, ImageFolder, ImageNet, Arrays, HuggingFace, Torchvision]


@hookimpl
def register_pools() -> list[type]:
    """Return the pools of image classifiers."""
    return [MnistResNet, MnistViT, Cifar10Trained, Checkpoints, Timm, SteinerAugReg, ClipSoups]
