"""Predictions of many models on the same points, and how often two of them agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance_predictions.outputs import lost_points

NONE = -1  # the class of every point, for a model that has outputs that are not finite


def predicted(logits: Sequence[Tensor]) -> Tensor:
    """Return the class that each model predicts of each point, (M, n), of the smallest type that holds it.

    Raises:
        Unsupported: for outputs of other shapes, or that are no logits of at least two classes.
    """
    shapes = {tuple(one.shape) for one in logits}
    if len(shapes) > 1:
        raise Unsupported(f"models that are compared need outputs of one shape, these have {sorted(shapes)}")
    (shape,) = shapes
    if len(shape) != 2 or shape[1] < 2:
        raise Unsupported(f"classes need one row of at least two logits a point, the outputs have shape {shape}")
    kind = torch.int8 if shape[1] < 128 else torch.int16 if shape[1] < 32768 else torch.int32
    classes = torch.stack([one.argmax(1).to(kind) for one in logits])
    classes[[i for i, one in enumerate(logits) if lost_points(one)]] = NONE
    return classes


def agreements(classes: Tensor) -> Tensor:
    """Return the share of points of which two models predict the same class, (M, M); NaN where one has no classes."""
    models, n = classes.shape
    found, table = classes.numpy(), torch.ones(models, models, dtype=torch.float64)
    for i in range(models - 1):
        # In numpy: torch makes eight bytes of each truth value before it counts them.
        equal = (found[i + 1 :] == found[i]).view(np.uint8).sum(1, dtype=np.int64)
        table[i, i + 1 :] = table[i + 1 :, i] = torch.from_numpy(equal).double() / n
    none = classes[:, 0] == NONE
    table[none], table[:, none] = torch.nan, torch.nan
    return table


def lost(estimates: Sequence[Estimate], classes: Tensor) -> list[Estimate]:
    """Return estimates without a value for models whose outputs are not finite, and the others as they are."""
    none = Estimate.without_value(Status.NONFINITE, "outputs of this model are not finite")
    return [none if own[0] == NONE else found for own, found in zip(classes, estimates, strict=True)]
