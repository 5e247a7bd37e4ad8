"""The paper's pool of networks trained on CIFAR-10 from scratch, at any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from acutance.spec import Size
from acutance.training.recipe import Recipe
from acutance_vision.datasets.cifar import Cifar10, Cifar10Spec
from acutance_vision.pools.sgd import SgdPool, SgdSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from acutance.training import Augmentation, Trained

# Log-uniform ranges of the learning rate (paper, App. H).
LEARNING_RATES = {"resnet18": (0.05, 5.0), "simple_vit": (0.005, 0.5)}


class Cifar10TrainedSpec(SgdSpec):
    """Settings of the pool. What the paper does not state (batch size, momentum 0.9, weight decay) is our choice."""

    architecture: Literal["resnet18", "simple_vit"]
    """The paper's pre-activation ResNet-18, or its SimpleViT."""
    size: Size = 200
    """Number of models; a smaller pool is the beginning of a larger one."""
    epochs: PositiveInt = 200
    """Passes over the training set."""
    batch_size: PositiveInt = 128
    """Images in a step, before repetition."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of the L2 penalty, on all parameters."""
    learning_rate_min: PositiveFloat | None = None
    """Lower end of the learning rate's log-uniform distribution; 0.05 for ResNets, 0.005 for vision transformers."""
    learning_rate_max: PositiveFloat | None = None
    """Upper end of the learning rate's log-uniform distribution; 5 for ResNets, 0.5 for vision transformers."""
    augmentation: Literal["randaugment", "standard"] = "randaugment"
    """Of the half of the models that augment: crop and mirror, then RandAugment with N = 2, M = 14; or without it."""
    augmented_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the images that such a model sees augmented; less than 1 lets small networks fit the clean images."""
    repeats: PositiveInt = 2
    """Augmented versions of each image in a batch, of models that augment."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: passes of training in mixed precision."""
    train_points: PositiveInt | None = None
    """Only this many training images, classes in turn in file order, as of the data set cifar10."""
    root: str | None = None
    """Folder of CIFAR-10, in any layout that the data set cifar10 knows; ACUTANCE_DATA/cifar10 by default."""
    width: PositiveInt = 64
    """Of ResNets: channels of the first stage."""
    stem_stride: PositiveInt = 1
    """Of ResNets: stride of the first convolution; 2 halves the images."""
    dim: PositiveInt = 512
    """Of vision transformers: embedding size, a multiple of 4; the MLP has twice as many units."""
    depth: PositiveInt = 6
    """Of vision transformers: number of blocks."""
    heads: PositiveInt = 16
    """Of vision transformers: attention heads."""
    dim_head: PositiveInt = 64
    """Of vision transformers: size of a head."""
    patch: PositiveInt = 4
    """Of vision transformers: side of a patch, a divisor of 32."""

    @model_validator(mode="after")
    def _fits(self) -> Cifar10TrainedSpec:
        if 32 % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide the images' side of 32")
        if self.dim % 4:
            raise ValueError(f"dim: {self.dim} is no multiple of 4")
        low, high = _learning_rates(self)
        if low > high:
            raise ValueError(f"learning_rate_min: {low:g} is above learning_rate_max, {high:g}")
        return self


class Cifar10Trained(SgdPool[Cifar10TrainedSpec]):
    """ResNet-18s or SimpleViTs trained on CIFAR-10 over learning rate, SAM, mixup, augmentation (paper, App. H)."""

    name = "cifar10_trained"

    def family(self, spec: Cifar10TrainedSpec) -> str:
        """Return the architecture: a study may have both."""
        return spec.architecture

    def train_set(self, spec: Cifar10TrainedSpec) -> str:
        """Return the data set, and how much of it."""
        return "cifar10" if spec.train_points is None else f"cifar10[{spec.train_points}]"

    def learning_rates(self, spec: Cifar10TrainedSpec) -> tuple[float, float]:
        """Return the ends of the log-uniform distribution of the learning rate."""
        return _learning_rates(spec)

    def settings(self, spec: Cifar10TrainedSpec) -> dict[str, Any]:
        """Return what the weights depend on beside network, recipe and training set."""
        names = ("augmentation", "augmented_share", "repeats", "precision")
        return {name: getattr(spec, name) for name in names}

    def recipe(self, spec: Cifar10TrainedSpec, i: int) -> Recipe:
        """Return the hyperparameters of model i: the same in a pool of any size."""
        return super().recipe(spec, i).model_copy(update={"batch_size": spec.batch_size})

    def architecture(self, spec: Cifar10TrainedSpec) -> dict[str, int]:
        """Return the arguments of the network's function."""
        vit = ("dim", "depth", "heads", "dim_head", "patch")
        names = ("width", "stem_stride") if spec.architecture == "resnet18" else vit
        return {name: getattr(spec, name) for name in names}

    def network(self, spec: Cifar10TrainedSpec) -> nn.Module:
        """Return the untrained network."""
        from acutance_vision import released

        make = released.resnet18 if spec.architecture == "resnet18" else released.simple_vit
        return make(**self.architecture(spec))

    def train(self, model: nn.Module, recipe: Recipe, spec: Cifar10TrainedSpec, resume: Path) -> Trained:
        """Train a model on the GPU if there is one; an interrupted training goes on from its last epoch."""
        import torch

        from acutance.training import train

        settings = {"root": spec.root, "train_points": spec.train_points, "augmentation": spec.augmentation}
        dataset = Cifar10(Cifar10Spec.model_validate(settings))
        data = dataset.open("train")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda" and spec.precision == "bfloat16":
            model.to(memory_format=torch.channels_last)
        trained = train(
            model.to(device), data.inputs.to(device), data.targets.to(device), recipe,
            partly(dataset.augment, spec.augmented_share),
            precision=spec.precision, repeats=spec.repeats, resume=resume,
        )  # fmt: skip
        model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return trained


def partly(augment: Augmentation, share: float) -> Augmentation:
    """Return an augmentation that leaves each image alone with probability 1 - share."""
    if share == 1:
        return augment
    import torch

    def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
        rows = (torch.rand(len(images), generator=generator) < share).nonzero()[:, 0].to(images.device)
        return images.index_copy(0, rows, augment(images[rows], generator))

    return augmented


def _learning_rates(spec: Cifar10TrainedSpec) -> tuple[float, float]:
    low, high = LEARNING_RATES[spec.architecture]
    return spec.learning_rate_min or low, spec.learning_rate_max or high
