"""Pools that are trained on first use in the paper's way, and cached."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from acutance.cache import cache_folder
from acutance.errors import UserError
from acutance.pool import ModelEntry, ModelPool
from acutance.recipe import Recipe, log_uniform, uniform
from acutance.spec import Spec, digest

if TYPE_CHECKING:
    from torch import nn

SAM_RHOS = (0.0, 0.05, 0.1)
MIXUP_ALPHA = 0.5
MIXUP_EPOCHS = 1.6  # mixed examples take longer to fit


class TrainedSpec(Spec):
    """Settings common to pools trained on mnist5k."""

    size: PositiveInt = 18
    """Number of models; a smaller pool is the beginning of a larger one."""
    seed: NonNegativeInt = 0
    """Names the hyperparameters and the training noise."""
    epochs: PositiveInt = 15
    """Epochs of a model without mixup; models with mixup get 1.6 times as many."""
    learning_rate_min: PositiveFloat = 0.01
    """Lower end of the log-uniform distribution of the learning rate."""
    learning_rate_max: PositiveFloat = 1.0
    """Upper end of the log-uniform distribution of the learning rate."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of the L2 penalty."""


SpecT = TypeVar("SpecT", bound=TrainedSpec)


class TrainedPool(ModelPool[SpecT]):
    """Models trained with SGD over learning rates, SAM radii, mixup and augmentation (paper, App. H)."""

    train_set: ClassVar[str] = "mnist5k"

    @abstractmethod
    def architecture(self, spec: SpecT) -> dict[str, int]:
        """Return the arguments of the network's function."""

    @abstractmethod
    def network(self, spec: SpecT) -> nn.Module:
        """Return an untrained network, initialised from torch's global generator."""

    def recipe(self, spec: SpecT, i: int) -> Recipe:
        """Return the hyperparameters of model i: the same in a pool of any size."""

        def draw(what: str) -> float:
            return uniform(self.name, spec.seed, i, what)

        mixup = draw("mixup") < 0.5
        return Recipe(
            learning_rate=log_uniform(spec.learning_rate_min, spec.learning_rate_max, draw("learning_rate")),
            epochs=round(spec.epochs * (MIXUP_EPOCHS if mixup else 1)),
            sam_rho=SAM_RHOS[int(draw("sam_rho") * len(SAM_RHOS))],
            mixup=MIXUP_ALPHA if mixup else 0.0,
            augment=draw("augment") < 0.5,
            weight_decay=spec.weight_decay,
            seed=int(draw("seed") * 2**31),
        )

    def _recipe_of(self, entry: ModelEntry, spec: SpecT) -> Recipe:
        return self.recipe(spec, int(entry.id.rpartition("_")[2]))

    def entries(self, spec: SpecT) -> Sequence[ModelEntry]:
        """Return the models with their hyperparameters, trained or not."""
        arguments = self.architecture(spec)
        shape = ",".join(f"{k}={v}" for k, v in arguments.items())
        entries = []
        for i in range(spec.size):
            recipe = self.recipe(spec, i)
            identity = {
                "pool": self.name, "version": self.version, "train_set": self.train_set, "network": arguments,
                "recipe": recipe.full(),
            }  # fmt: skip
            path = cache_folder() / "models" / f"{self.name}-{digest(identity)[:20]}.safetensors"
            attributes = {
                "learning_rate": recipe.learning_rate,
                "sam_rho": recipe.sam_rho,
                "mixup": recipe.mixup > 0,
                "augment": recipe.augment,
                "epochs": recipe.epochs,
            }
            entries.append(
                ModelEntry(
                    id=f"{self.name}_{i:03d}",
                    attributes=attributes,
                    architecture=f"{self.name}({shape})",
                    train_set=self.train_set,
                    run=f"{self.name}_{i:03d}",
                    path=str(path),
                )
            )
        return entries

    def missing(self, entries: Sequence[ModelEntry], spec: SpecT) -> list[ModelEntry]:
        """Return the models that have not been trained yet."""
        return [entry for entry in entries if not Path(entry.path or "").is_file()]

    def build_cost(self, entry: ModelEntry, spec: SpecT) -> float:
        """Return epochs, twice for SAM's two passes."""
        return float(entry.attributes["epochs"] or 1) * (2 if entry.attributes["sam_rho"] else 1)

    def build(self, entry: ModelEntry, spec: SpecT, threads: int | None = None) -> dict[str, Any]:
        """Train one model and write its weights, all or nothing."""
        from safetensors.torch import save_file

        from acutance.training import initialised, train
        from acutance_vision.augment import shift_and_rotate
        from acutance_vision.mnist import Mnist5k

        recipe = self._recipe_of(entry, spec)
        data = Mnist5k().open("train")
        model = initialised(lambda: self.network(spec), recipe.seed)
        trained = train(model, data.inputs, data.targets, recipe, shift_and_rotate)
        path = Path(entry.path or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "loss": trained.loss,
            "epochs": trained.epochs,
            "diverged": trained.diverged,
            "seconds": trained.seconds,
        }
        metadata = {"recipe": json.dumps(recipe.full()), "training": json.dumps(facts)}
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        # Written beside and moved: another process building the same model can only replace it by its equal.
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(state, partial, metadata=metadata)
        os.replace(partial, path)
        return facts

    def initial(self, entry: ModelEntry, spec: SpecT) -> nn.Module:
        """Return the network that training starts from: made anew from the recipe's seed."""
        from acutance.training import initialised

        return initialised(lambda: self.network(spec), self._recipe_of(entry, spec).seed).eval()

    def load(self, entry: ModelEntry, spec: SpecT) -> nn.Module:
        """Return the trained model.

        Raises:
            UserError: for a damaged file; deleting it makes the next run train it again.
        """
        from acutance.checkpoints import load_state, read_state
        from acutance.training import initialised

        path = Path(entry.path or "")
        try:
            state = read_state(path)
        except UserError as error:
            raise UserError(error.message, f"delete {path} to train the model again") from None
        return load_state(initialised(lambda: self.network(spec), 0), state, str(path))


class MnistResNetSpec(TrainedSpec):
    """Settings of the pool of small ResNets."""

    width: PositiveInt = 4
    """Channels of the first stage; 64 in the paper."""
    blocks: PositiveInt = 1
    """Blocks in each of the four stages; 2 in the paper's ResNet-18."""
    learning_rate_max: PositiveFloat = 2.0
    """Upper end of the log-uniform distribution of the learning rate."""
    learning_rate_min: PositiveFloat = 0.03
    """Lower end of the log-uniform distribution of the learning rate."""


class MnistResNet(TrainedPool[MnistResNetSpec]):
    """Small ResNet-18s on mnist5k over learning rate, SAM radius, mixup and augmentation; trained on first use."""

    name = "mnist_resnet"

    def architecture(self, spec: MnistResNetSpec) -> dict[str, int]:
        """Return width and blocks."""
        return {"width": spec.width, "blocks": spec.blocks}

    def network(self, spec: MnistResNetSpec) -> nn.Module:
        """Return the untrained network."""
        from acutance_vision.networks import mnist_resnet

        return mnist_resnet(spec.width, spec.blocks)


class MnistViTSpec(TrainedSpec):
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


class MnistViT(TrainedPool[MnistViTSpec]):
    """Small vision transformers on mnist5k over the same hyperparameters; trained on first use."""

    name = "mnist_vit"

    def architecture(self, spec: MnistViTSpec) -> dict[str, int]:
        """Return depth and embedding size."""
        return {"depth": spec.depth, "dim": spec.dim}

    def network(self, spec: MnistViTSpec) -> nn.Module:
        """Return the untrained network."""
        from acutance_vision.networks import mnist_vit

        return mnist_vit(spec.depth, spec.dim)
