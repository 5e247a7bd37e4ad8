"""How predictions are judged where a test set has other classes than the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acutance.errors import UserError


class Restricted:
    """Only some classes may be predicted: those that the test set has (ImageNet-R and -A; Wortsman et al. 2022).

    Args:
        classes: indices of these classes.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes = torch.tensor(sorted(set(classes)))

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (n,) ones where the most likely of these classes is not the target."""
        _require(logits, self.classes)
        classes = self.classes.to(logits.device)
        predicted = classes[logits[:, classes].argmax(1)]
        return (predicted != targets).to(logits.dtype)


class Grouped:
    """The test set's classes are groups of the model's; a group is as likely as its most likely member (ObjectNet).

    Args:
        groups: class indices of every group.

    Attributes:
        targets: one class of each group that is in no other group: it stands for the group among the targets.

    Raises:
        UserError: when a group shares every class with others.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        owners: dict[int, list[int]] = {}
        for g, group in enumerate(groups):
            for k in dict.fromkeys(group):
                owners.setdefault(k, []).append(g)
        alone = [[k for k in group if len(owners[k]) == 1] for group in groups]
        if not all(alone):
            raise UserError(f"group {alone.index([])} has no class of its own", "groups must be told apart")
        self.targets = [classes[0] for classes in alone]
        pairs = [(k, g) for k, groups_of_k in owners.items() for g in groups_of_k]
        self._classes, self._groups = torch.tensor([k for k, _ in pairs]), torch.tensor([g for _, g in pairs])

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (n,) ones where the most likely group is not the target's."""
        _require(logits, self._classes)
        classes, groups = self._classes.to(logits.device), self._groups.to(logits.device)
        size = (len(logits), len(self.targets))
        best = torch.full(size, -torch.inf, dtype=logits.dtype, device=logits.device)
        best = best.scatter_reduce(1, groups.expand(len(logits), -1), logits[:, classes], "amax")
        stands_for = torch.tensor(self.targets, device=logits.device)
        return (stands_for[best.argmax(1)] != targets).to(logits.dtype)


def _require(logits: Tensor, classes: Tensor) -> None:
    if logits.shape[1] <= int(classes.max()):
        message = f"the model has {logits.shape[1]} outputs, but the test set has class {int(classes.max())}"
        raise UserError(message, "take models with the classes of the data set")
