"""What a model predicts: probabilities of the classes, from the one forward that all measures of outputs share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.surface import LossSurface

THEMSELVES = "the validation points are the points that are measured: name another split as validation"
NEAR = 1 << 17  # numbers of a block
NUMBERS = ("mse", "squared_sum", "half_squared_sum")  # losses whose outputs are no logits


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits of n points and K classes, and what follows from them, each computed once for all measures.

    What follows means something where no row is ``lost``.

    Attributes:
        logits: (n, K) float64.
    """

    logits: Tensor

    @cached_property
    def lost(self) -> int:
        """Number of points with an output that is not finite."""
        return lost_rows(self.logits)

    @cached_property
    def log_p(self) -> Tensor:
        """Logarithms of the probabilities, (n, K)."""
        return self.logits.log_softmax(1)

    @cached_property
    def p(self) -> Tensor:
        """Probabilities of the classes, (n, K)."""
        return self.log_p.exp()

    @cached_property
    def confidence(self) -> Tensor:
        """The largest probability of each point, (n,)."""
        return self.p.amax(1)

    @cached_property
    def classes(self) -> Tensor:
        """The class that is predicted, (n,): the first of the largest logits."""
        return self.logits.argmax(1)

    @cached_property
    def squares(self) -> Tensor:
        """Sum of the squared probabilities of each point, (n,)."""
        return sums_of_products(self.p, self.p)

    @cached_property
    def entropy(self) -> Tensor:
        r"""Entropy of each point's probabilities in nats, (n,), :math:`-\sum_k p_k \log p_k`."""
        return -sums_of_products(self.p, self.log_p)  # no logarithm is infinite where logits are finite


def lost_rows(values: Tensor) -> int:
    """Return the number of rows, of (n, d), that have an entry that is not finite."""
    return int((~values.isfinite()).any(1).sum())


def sums_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum over k of a_ik b_ik, (n,), some rows at a time, in memory that the processor keeps near."""
    rows = max(1, NEAR // a.shape[1])
    return torch.cat([(x * y).sum(1) for x, y in zip(a.split(rows), b.split(rows), strict=True)])


def outputs(surface: LossSurface) -> Outputs:
    """Return what the model predicts on the points, one forward for all measures; no targets are needed.

    Raises:
        Unsupported: for outputs that are no logits of at least two classes, one row a point.
    """
    if surface.criterion in NUMBERS:
        raise Unsupported("probabilities need logits of classes, the loss is one of numbers: give cross_entropy")
    raw = surface.clean_logits()
    if raw.dim() != 2:
        raise Unsupported(f"probabilities need one row of logits a point, the outputs have shape {tuple(raw.shape)}")
    if raw.shape[1] < 2:
        raise Unsupported("one output has no probabilities over classes: let the model return (0, f)")
    return surface.shared("outputs of predictions", lambda: Outputs(raw.detach().double()))


def labels(surface: LossSurface) -> Tensor:
    """Return the class of each point, (n,).

    Raises:
        Unsupported: for targets that are numbers, places with classes of their own, or no class of the model.
    """
    targets, classes = surface.targets, surface.clean_logits().shape[-1]
    if targets.is_floating_point() or targets.dim() != 1:
        raise Unsupported("this measure needs one class label a point, the targets are something else")
    if not bool(((targets >= 0) & (targets < classes)).all()):
        raise Unsupported(f"this measure needs labels from 0 to {classes - 1}, some targets are none of them")
    return targets


def validation(surface: LossSurface) -> tuple[Outputs, Tensor]:
    """Return what the model predicts on the validation points, (m, K), and their labels, (m,).

    Raises:
        Unsupported: where there are no such points, they have no labels, or they are the points themselves.
    """
    beside = surface.companion("validation")
    found = outputs(beside)
    if same_points(surface, beside):
        raise Unsupported(THEMSELVES)
    return found, labels(beside)


def same_points(surface: LossSurface, beside: LossSurface) -> bool:
    """Return whether two surfaces of a model have the same inputs; they are read only where their outputs are equal."""
    ours, theirs = surface.clean_logits(), beside.clean_logits()
    if not torch.equal(ours, theirs):
        return False
    return surface.unlabelled().digest == beside.unlabelled().digest
