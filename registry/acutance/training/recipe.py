"""How a network is trained: the settings, without torch, so that pools can list their models for free."""

from __future__ import annotations

import hashlib
import math

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from acutance.spec import Spec


class Recipe(Spec):
    """The paper's way of training (Section 5.1, Appendix H): SGD with momentum, warm-up, linear decay, SAM, mixup."""

    learning_rate: PositiveFloat
    """Peak learning rate, reached at the end of the warm-up."""
    epochs: PositiveInt
    """Passes over the training set."""
    batch_size: PositiveInt = 128
    """Examples in one step; a last smaller batch is used too."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of the L2 penalty, on all parameters."""
    warmup: float = Field(default=0.4, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly; it then falls linearly to zero."""
    sam_rho: NonNegativeFloat = 0.0
    """Radius of sharpness-aware minimization (Foret et al. 2021); 0 is plain SGD."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al. 2018); 0 is none."""
    augment: bool = False
    """Whether images are transformed at random."""
    seed: NonNegativeInt = 0
    """Names the initial weights, the order of the examples and all augmentation."""


def learning_rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of step 0 <= ``step`` < ``steps``: linear warm-up, then linear decay to zero.

    The first step has a positive rate, the peak is met at ``warmup * steps``, and the rate after the last
    step would be zero.
    """
    rise = recipe.warmup * steps
    t = step + 1
    if t <= rise:
        return recipe.learning_rate * t / rise
    return recipe.learning_rate * max(steps + 1 - t, 0) / max(steps + 1 - rise, 1e-12)


def uniform(*name: object) -> float:
    """Return the number in [0, 1) that a name stands for: model i of a pool is the same for every pool size."""
    text = "\x1f".join(map(repr, name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def log_uniform(low: float, high: float, u: float) -> float:
    """Return the u-quantile of the log-uniform distribution on [low, high], to four significant digits."""
    return float(f"{math.exp(math.log(low) + u * (math.log(high) - math.log(low))):.4g}")
