"""Pools trained with SGD in the paper's way (App. H)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from pydantic import NonNegativeFloat, PositiveInt

from acutance.pool import Attribute
from acutance.training.recipe import Recipe, log_uniform, uniform
from acutance.training.trained import TrainedPool, TrainedSpec

SAM_RHOS = (0.0, 0.05, 0.1)
MIXUP_ALPHA = 0.5


class SgdSpec(TrainedSpec):
    """Settings common to pools trained with SGD."""

    epochs: PositiveInt = 15
    """Passes over the training set."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of the L2 penalty."""


SpecT = TypeVar("SpecT", bound=SgdSpec)


class SgdPool(TrainedPool[SpecT, Recipe]):
    """Models trained with SGD over learning rates, SAM radii, mixup and augmentation (paper, App. H)."""

    @abstractmethod
    def learning_rates(self, spec: SpecT) -> tuple[float, float]:
        """Return the ends of the log-uniform distribution of the learning rate."""

    def epochs(self, spec: SpecT, mixup: bool) -> int:
        """Return the epochs of a model."""
        return spec.epochs

    def recipe(self, spec: SpecT, i: int) -> Recipe:
        """Return the hyperparameters of model i: the same in a pool of any size."""

        def draw(setting: str) -> float:
            return uniform(self.family(spec), spec.seed, i, setting)

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

    def attributes(self, recipe: Recipe) -> dict[str, Attribute]:
        """Return the hyperparameters that the paper varies."""
        return {
            "learning_rate": recipe.learning_rate,
            "sam_rho": recipe.sam_rho,
            "mixup": recipe.mixup > 0,
            "augment": recipe.augment,
            "epochs": recipe.epochs,
        }
