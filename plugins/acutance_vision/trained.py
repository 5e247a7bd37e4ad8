"""Pools that are trained on first use in the paper's way, and cached."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from acutance.cache import cache_folder
from acutance.errors import UserError
from acutance.pool import ModelEntry, ModelPool
from acutance.recipe import Recipe, log_uniform, uniform
from acutance.spec import Spec, digest

if TYPE_CHECKING:
    from torch import nn

    from acutance.training import Trained

SAM_RHOS = (0.0, 0.05, 0.1)
MIXUP_ALPHA = 0.5


class TrainedSpec(Spec):
    """Settings common to pools that are trained."""

    size: PositiveInt = 18
    """Number of models; a smaller pool is the beginning of a larger one."""
    seed: NonNegativeInt = 0
    """Names the hyperparameters and the training noise."""
    epochs: PositiveInt = 15
    """Epochs of a model without mixup; models with mixup get 1.6 times as many."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of the L2 penalty."""


SpecT = TypeVar("SpecT", bound=TrainedSpec)


class TrainedPool(ModelPool[SpecT]):
    """Models trained with SGD over learning rates, SAM radii, mixup and augmentation (paper, App. H)."""

    @abstractmethod
    def train_set(self, spec: SpecT) -> str:
        """Return what the models are trained on, in words that tell different sets apart."""

    @abstractmethod
    def architecture(self, spec: SpecT) -> dict[str, int]:
        """Return the arguments of the network's function."""

    @abstractmethod
    def network(self, spec: SpecT) -> nn.Module:
        """Return an untrained network, initialised from torch's global generator."""

    @abstractmethod
    def learning_rates(self, spec: SpecT) -> tuple[float, float]:
        """Return the ends of the log-uniform distribution of the learning rate."""

    @abstractmethod
    def train(self, model: nn.Module, recipe: Recipe, spec: SpecT, resume: Path) -> Trained:
        """Train a model in place.

        Args:
            model: at its initial weights, on the CPU, where it is when this returns.
            recipe: its hyperparameters.
            spec: of the pool.
            resume: file in which a pool that takes long may keep what the next epoch needs.
        """

    def epochs(self, spec: SpecT, mixup: bool) -> int:
        """Return the epochs of a model."""
        return spec.epochs

    def family(self, spec: SpecT) -> str:
        """Return what begins the models' names and names their hyperparameters: the pool's name."""
        return self.name

    def settings(self, spec: SpecT) -> dict[str, Any]:
        """Return what the weights depend on beside network, recipe and training set."""
        return {}

    def recipe(self, spec: SpecT, i: int) -> Recipe:
        """Return the hyperparameters of model i: the same in a pool of any size."""

        def draw(what: str) -> float:
            return uniform(self.family(spec), spec.seed, i, what)

        mixup = draw("mixup") < 0.5
        return Recipe(
            learning_rate=log_uniform(*self.learning_rates(spec), draw("learning_rate")),
            epochs=self.epochs(spec, mixup),
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
        arguments, family, train_set = self.architecture(spec), self.family(spec), self.train_set(spec)
        shape = ",".join(f"{k}={v}" for k, v in arguments.items())
        entries = []
        for i in range(spec.size):
            recipe = self.recipe(spec, i)
            identity = {
                "pool": self.name, "version": self.version, "train_set": train_set, "network": arguments,
                "recipe": recipe.full(), **self.settings(spec),
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
                    id=f"{family}_{i:03d}",
                    attributes=attributes,
                    architecture=f"{family}({shape})",
                    train_set=train_set,
                    run=f"{family}_{i:03d}",
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

        from acutance.training import initialised

        recipe = self._recipe_of(entry, spec)
        model = initialised(lambda: self.network(spec), recipe.seed)
        path = Path(entry.path or "")
        resume = path.with_suffix(".epochs")
        trained = self.train(model, recipe, spec, resume)
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
        resume.unlink(missing_ok=True)
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
