"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_datasets() -> dict[str, str]:
    """Return the image datasets."""
    return {
        "mnist5k": "acutance_vision.datasets.mnist:Mnist5k",
        "cifar10": "acutance_vision.datasets.cifar:Cifar10",
        "cifar100": "acutance_vision.datasets.cifar:Cifar100",
        "cifar10c": "acutance_vision.datasets.cifar_c:Cifar10C",
        "cifar100c": "acutance_vision.datasets.cifar_c:Cifar100C",
        "imagefolder": "acutance_vision.datasets.imagefolder:ImageFolder",
        "imagenet": "acutance_vision.datasets.imagenet:ImageNet",
        "arrays": "acutance_vision.datasets.arrays:Arrays",
        "huggingface": "acutance_vision.datasets.hub_sets:HuggingFace",
        "torchvision": "acutance_vision.datasets.torchvision_sets:Torchvision",
    }


@hookimpl
def register_pools() -> dict[str, str]:
    """Return the pools of image classifiers."""
    return {
        "mnist_resnet": "acutance_vision.pools.mnist:MnistResNet",
        "mnist_vit": "acutance_vision.pools.mnist:MnistViT",
        "cifar10_trained": "acutance_vision.pools.cifar:Cifar10Trained",
        "checkpoints": "acutance_vision.pools.checkpoints:Checkpoints",
        "timm": "acutance_vision.pools.timm:Timm",
        "steiner_augreg": "acutance_vision.pools.augreg:SteinerAugReg",
        "clip_soups": "acutance_vision.pools.soups:ClipSoups",
    }
