"""Datasets: the points on which surfaces are built and errors are measured."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from acutance.errors import Unsupported, UserError
from acutance.spec import Specified, SpecT

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A tensor, a dict of tensors, a tuple of tensors, or one tensor that is read when it is used
# (``acutance.data.lazy.Lazy``); the first axis is the example.
Inputs = Any


def argmax_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (n,) ones where the most likely class is not the target, zeros elsewhere.

    Args:
        logits: (n, K), K >= 2.
        targets: (n,) class labels.

    Raises:
        Unsupported: for a single output, or targets that are no class labels.
    """
    classes = logits.shape[-1] if logits.dim() > 1 else 1
    if classes < 2:
        raise Unsupported("classification error needs two outputs or more: of a single one argmax knows no other class")
    guessed = logits.argmax(dim=-1)
    if guessed.shape != targets.shape or guessed.dim() != 1:
        got = f"the targets are {tuple(targets.shape)} for outputs {tuple(logits.shape)}"
        hint = "LossSurface takes score=, which makes one number of an example's places" if guessed.dim() > 1 else ""
        raise Unsupported(f"classification error needs a class label for each example: {got}" + (hint and f"; {hint}"))
    return (guessed != targets).to(logits.dtype)


@dataclass(frozen=True)
class Split:
    """Points of one kind.

    Attributes:
        inputs: tensor, dict of tensors, tuple of tensors or ``acutance.data.lazy.Lazy``, first axis n.
        targets: (n,) class indices, or what the loss takes.
        score: (logits, targets) -> (n,), 1 where the prediction is wrong, 0 where it is right.
        description: one line for reports.
        versions: how many versions of each example it has, as the corruptions of one image: these err together, so the
            ceiling counts the examples.
        notes: sentences that a run says once.
    """

    inputs: Inputs
    targets: Tensor
    score: Callable[[Tensor, Tensor], Tensor] = argmax_error
    description: str = ""
    versions: int = 1
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


class Dataset(Specified[SpecT]):
    """A named set of splits; subclass it, list ``splits``, write ``open``.

    Attributes:
        name: short name, unique within the distribution.
        splits: the split names; ``train`` and ``test`` first, then the out-of-distribution ones. A property where
            the spec names them; it must be cheap.
        labels: words for the classes in the order of their numbers, or none. Models that name their outputs are held
            to this order.
        has_classes: whether an example's target is the number of its class, which can be balanced over points.
        suffixes: of files that ``settings_for`` takes, for ``acutance measure``.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    splits: tuple[str, ...] = ("train", "test")
    labels: tuple[str, ...] = ()
    has_classes: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def settings_for(cls, path: Path) -> dict[str, Any]:
        """Return the settings under which a file with one of ``suffixes`` is the split ``train``."""
        raise UserError(f"dataset '{cls.name}' reads no single file", "write its settings")

    @classmethod
    def settings_without_targets(cls) -> dict[str, Any]:
        """Return the settings under which a file's targets are not read, which may then lack them; none by default."""
        return {}

    def __init__(self, spec: SpecT | None = None) -> None:
        self.spec: SpecT = spec if spec is not None else self.Spec()  # type: ignore[assignment]

    @abstractmethod
    def open(self, split: str) -> Split:
        """Return the points of one split, in a fixed order, without augmentation.

        Raises:
            UserError: for a missing file or an unknown split.
        """

    def trimmed(self, inputs: Inputs) -> Inputs:
        """Return the inputs without what no example of them has, such as padding; override it where there is some.

        What it returns must mean the same for every model and only make passes shorter. Called on the inputs of each
        m-batch before these are digested and measured; whole splits stay as they were opened.

        Args:
            inputs: of one m-batch, first axis m; the result has as many examples.
        """
        return inputs

    def augment(self, inputs: Inputs, generator: torch.Generator) -> Inputs:
        """Return one random augmentation of inputs, as in training; override it where there is one.

        Args:
            inputs: of one example, first axis 1.
            generator: the only source of randomness to use.
        """
        raise UserError(f"dataset '{self.name}' has no augmentation", "write surface.augment: false")
