"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_datasets() -> dict[str, str]:
    """Return the image datasets."""
    return {
        "mnist5k": "acutance_vision.mnist:Mnist5k",
        "cifar10": "acutance_vision.cifar:Cifar10",
        "cifar100": "acutance_vision.cifar:Cifar100",
        "cifar10c": "acutance_vision.cifar_c:Cifar10C",
        "cifar100c": "acutance_vision.cifar_c:Cifar100C",
        "imagefolder": "acutance_vision.imagefolder:ImageFolder",
        "imagenet": "acutance_vision.imagenet:ImageNet",
        "arrays": "acutance_vision.arrays:Arrays",
        "huggingface": "acutance_vision.hub_sets:HuggingFace",
        "torchvision": "acutance_vision.torchvision_sets:Torchvision",
    }


@hookimpl
def register_pools() -> dict[str, str]:
    """Return the pools of image classifiers."""
    return {
        "mnist_resnet": "acutance_vision.pools:MnistResNet",
        "mnist_vit": "acutance_vision.pools:MnistViT",
        "cifar10_trained": "acutance_vision.cifar_pool:Cifar10Trained",
        "checkpoints": "acutance_vision.checkpoints_pool:Checkpoints",
        "timm": "acutance_vision.timm_pool:Timm",
        "steiner_augreg": "acutance_vision.augreg:SteinerAugReg",
        "clip_soups": "acutance_vision.soups:ClipSoups",
    }
