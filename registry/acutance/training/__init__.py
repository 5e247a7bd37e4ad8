"""Training, for pools that train on first use; the names are loaded when they are used, ``recipe`` without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acutance.training.loop import Augmentation, Trained, initialised, sam_gradient, train
    from acutance.training.recipe import Recipe, learning_rate_at, log_uniform, uniform
    from acutance.training.trained import TrainedPool, TrainedSpec

_HOME = {
    "Augmentation": "loop",
    "Recipe": "recipe",
    "Trained": "loop",
    "TrainedPool": "trained",
    "TrainedSpec": "trained",
    "initialised": "loop",
    "learning_rate_at": "recipe",
    "log_uniform": "recipe",
    "sam_gradient": "loop",
    "train": "loop",
    "uniform": "recipe",
}

__all__ = [
    "Augmentation",
    "Recipe",
    "Trained",
    "TrainedPool",
    "TrainedSpec",
    "initialised",
    "learning_rate_at",
    "log_uniform",
    "sam_gradient",
    "train",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'acutance.training' has no attribute '{name}'")
    return getattr(import_module(f"acutance.training.{_HOME[name]}"), name)
