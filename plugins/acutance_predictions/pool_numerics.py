"""Predictions of many models on the same points, and how often two of them agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acutance.measure import Estimate, Status
from acutance_predictions.outputs import lost_points

NONE = -1  # the class of every point, for a model that has outputs that are not finite
NOT_FINITE = "outputs of this model are not finite"
FEWEST = 2  # logits
WANTED = "classes need one row of at least two logits a point"


@dataclass(frozen=True, eq=False)
class Predicted:
    """What models predict of the same points.

    Attributes:
        classes: (M, n), of the smallest type that holds them; ``NONE`` for a model that predicts none.
        groups: places of the models with as many classes: those of one group are compared.
        without: why a model has none to be compared with, by its place.
    """

    classes: Tensor
    groups: tuple[list[int], ...]
    without: dict[int, Estimate]


def predicted(logits: Sequence[Tensor], names: Sequence[str]) -> Predicted:
    """Return the class that each model predicts of each point; a model that has other outputs costs itself alone.

    Args:
        logits: (n, K) of each model.
        names: of the models.
    """
    shapes = [tuple(one.shape) for one in logits]
    counts = [shape[1] if len(shape) == 2 and shape[1] >= FEWEST else 0 for shape in shapes]
    largest = max(counts)
    kind = torch.int8 if largest < 128 else torch.int16 if largest < 32768 else torch.int32
    classes = torch.full((len(logits), max(map(len, logits))), NONE, dtype=kind)
    for i, one in enumerate(logits):
        if counts[i] and not lost_points(one):
            classes[i] = one.argmax(1)
    groups = [[i for i, count in enumerate(counts) if count == own] for own in dict.fromkeys(counts) if own]
    without = {
        i: Estimate.without_value(Status.UNSUPPORTED, f"{WANTED}, the outputs of model {names[i]} have shape {shape}")
        for i, shape in enumerate(shapes)
        if not counts[i]
    }
    for (i,) in [group for group in groups if len(group) == 1]:
        others = [j for j, count in enumerate(counts) if j != i and count]
        if others:
            beside = f"model {names[others[0]]} has {counts[others[0]]}"
            message = f"model {names[i]} has {counts[i]} classes, and no other one has as many to compare ({beside})"
            without[i] = Estimate.without_value(Status.UNSUPPORTED, message)
    return Predicted(classes, tuple(groups), without)


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


def pairs(found: Predicted) -> Tensor:
    """Return the agreements of all pairs, (M, M); NaN where the numbers of classes differ, or one predicts none."""
    table = torch.full((len(found.classes),) * 2, torch.nan, dtype=torch.float64)
    for group in found.groups:
        rows = torch.tensor(group)
        table[rows[:, None], rows] = agreements(found.classes[rows])
    return table


def lost(estimates: Sequence[Estimate], found: Predicted) -> list[Estimate]:
    """Return the estimates of models, without a value for one that has none to be compared with, or predicts none."""
    none = Estimate.without_value(Status.NONFINITE, NOT_FINITE)
    return [
        found.without.get(i, none if own[0] == NONE else estimate)
        for i, (own, estimate) in enumerate(zip(found.classes, estimates, strict=True))
    ]
