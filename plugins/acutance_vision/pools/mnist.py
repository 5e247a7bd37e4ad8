"""Pools of small networks trained on mnist5k."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from acutance.training.recipe import Recipe
from acutance_vision.datasets.mnist import Mnist5k
from acutance_vision.pools.sgd import SgdPool, SgdSpec

if TYPE_CHECKING:
    from torch import nn

    from acutance.training import Trained

MIXUP_EPOCHS = 1.6  # mixed examples take longer to fit


class MnistSpec(SgdSpec):
    """Settings common to pools trained on mnist5k."""

    epochs: PositiveInt = 15
    """Epochs of a model without mixup; models with mixup get 1.6 times as many."""
    learning_rate_min: PositiveFloat = 0.01
    """Lower end of the log-uniform distribution of the learning rate."""
    learning_rate_max: PositiveFloat = 1.0
    """Upper end of the log-uniform distribution of the learning rate."""


SpecT = TypeVar("SpecT", bound=MnistSpec)


class MnistPool(SgdPool[SpecT]):
    """Models trained on mnist5k; half of the images of an augmented model are shifted and turned."""

    def train_set(self, spec: SpecT) -> str:
        """Return the data set."""
        return "mnist5k"

    def learning_rates(self, spec: SpecT) -> tuple[float, float]:
        """Return the ends of the log-uniform distribution of the learning rate."""
        return spec.learning_rate_min, spec.learning_rate_max

    def epochs(self, spec: SpecT, mixup: bool) -> int:
        """Return the epochs of a model, 1.6 times as many with mixup."""
        return round(spec.epochs * (MIXUP_EPOCHS if mixup else 1))

    def train(self, model: nn.Module, recipe: Recipe, spec: SpecT, resume: Path) -> Trained:
        """Train a model in seconds, so that nothing is kept for a resumption."""
        from acutance.training import train
        from acutance_vision.images.augment import shift_and_rotate

        data = Mnist5k().open("train")
        return train(model, data.inputs, data.targets, recipe, shift_and_rotate)


class MnistResNetSpec(MnistSpec):
    """Settings of the pool of small ResNets."""

    width: PositiveInt = 4
    """Channels of the first stage; 64 in the paper."""
    blocks: PositiveInt = 1
    """Blocks in each of the four stages; 2 in the paper's ResNet-18."""
    learning_rate_max: PositiveFloat = 2.0
    """Upper end of the log-uniform distribution of the learning rate."""
    learning_rate_min: PositiveFloat = 0.03
    """Lower end of the log-uniform distribution of the learning rate."""


class MnistResNet(MnistPool[MnistResNetSpec]):
    """Small ResNet-18s on mnist5k over learning rate, SAM radius, mixup and augmentation; trained on first use."""

    name = "mnist_resnet"

    def architecture(self, spec: MnistResNetSpec) -> dict[str, int]:
        """Return width and blocks."""
        return {"width": spec.width, "blocks": spec.blocks}

    def network(self, spec: MnistResNetSpec) -> nn.Module:
        """Return the untrained network."""
        from acutance_vision.networks.small import mnist_resnet

        return mnist_resnet(spec.width, spec.blocks)


class MnistViTSpec(MnistSpec):
    """Settings of the pool of small vision transformers."""

    depth: PositiveInt = 2
    """Number of blocks."""
    dim: PositiveInt = 48
    """Embedding size, a multiple of 4."""
    epochs: PositiveInt = 50
    """Epochs of a model without mixup; models with mixup get 1.6 times as many."""
    weight_decay: NonNegativeFloat = 1e-4
    """Coefficient of the L2 penalty."""
    learning_rate_min: PositiveFloat = 0.08
    """Lower end of the log-uniform distribution of the learning rate."""
    learning_rate_max: PositiveFloat = 0.5
    """Upper end of the log-uniform distribution of the learning rate."""


class MnistViT(MnistPool[MnistViTSpec]):
    """Small vision transformers on mnist5k over the same hyperparameters; trained on first use."""

    name = "mnist_vit"

    def architecture(self, spec: MnistViTSpec) -> dict[str, int]:
        """Return depth and embedding size."""
        return {"depth": spec.depth, "dim": spec.dim}

    def network(self, spec: MnistViTSpec) -> nn.Module:
        """Return the untrained network."""
        from acutance_vision.networks.small import mnist_vit

        return mnist_vit(spec.depth, spec.dim)
