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

NEAR = 1 << 16  # numbers of a block
NOTHING = -1000.0  # its exponential is 0 in float64, and so is its product with any number
PAIR = "the logits of two classes, torch.stack([torch.zeros_like(f), f], 1)"
NUMBERS = ("mse", "squared_sum", "half_squared_sum")  # losses whose outputs are no logits


@dataclass(frozen=True, eq=False)
class Outputs:
    """Logits of n points and K classes, and what follows from them, each computed once for all measures.

    What follows means something where no row is ``lost``. A logit of minus infinity takes a class away: its probability
    is 0, and so are its terms in all sums.

    Attributes:
        logits: (n, K) float64.
    """

    logits: Tensor

    @cached_property
    def lost(self) -> int:
        """Number of points without probabilities."""
        return lost_points(self.logits)

    @cached_property
    def softmax(self) -> Softmax:
        """Probabilities and what is summed up of them, from one walk over the logits."""
        return softmax(self.logits)

    @property
    def p(self) -> Tensor:
        """Probabilities of the classes, (n, K)."""
        return self.softmax.p

    @property
    def confidence(self) -> Tensor:
        """The largest probability of each point, (n,)."""
        return self.softmax.confidence

    @property
    def squares(self) -> Tensor:
        """Sum of the squared probabilities of each point, (n,)."""
        return self.softmax.squares

    @property
    def entropy(self) -> Tensor:
        r"""Entropy of each point's probabilities in nats, (n,), :math:`-\sum_k p_k \log p_k`."""
        return self.softmax.entropy

    @cached_property
    def classes(self) -> Tensor:
        """The class that is predicted, (n,): the first of the largest logits."""
        return self.logits.argmax(1)

    def log_p(self, y: Tensor) -> Tensor:
        """Return the logarithm of the probability of class y of each point, (n,); of 0 minus infinity."""
        own = self.logits.gather(1, y[:, None])[:, 0]
        return (own - self.softmax.largest) - self.softmax.log_total

    @cached_property
    def mean_log_p(self) -> Tensor:
        """Mean over the classes of the logarithms of the probabilities of each point, (n,)."""
        return (self.logits.mean(1) - self.softmax.largest) - self.softmax.log_total


@dataclass(frozen=True, eq=False)
class Softmax:
    """Softmax probabilities of n points and K classes.

    Attributes:
        p: (n, K).
        largest: logit of each point, (n,).
        log_total: logarithm of the sum of the exponentials of the logits less the largest, (n,).
        confidence: largest probability, (n,).
        squares: sum of the squared probabilities, (n,).
        entropy: in nats, (n,).
    """

    p: Tensor
    largest: Tensor
    log_total: Tensor
    confidence: Tensor
    squares: Tensor
    entropy: Tensor


def softmax(logits: Tensor) -> Softmax:
    """Return the probabilities of logits, (n, K), and their sums; each block of rows is walked over once."""
    p, columns = torch.empty_like(logits), []
    for part, own in zip(blocks(logits), blocks(p), strict=True):
        largest = part.amax(1, keepdim=True)
        z = (part - largest).clamp_(min=NOTHING)
        total = torch.exp(z, out=own).sum(1, keepdim=True)
        own /= total
        log_total = total.log()[:, 0]
        entropy = log_total - torch.linalg.vecdot(own, z)
        columns.append((largest[:, 0], log_total, own.amax(1), torch.linalg.vecdot(own, own), entropy))
    return Softmax(p, *(torch.cat(column) for column in zip(*columns, strict=True)))


def blocks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of a matrix, (n, K), in parts that the processor keeps near."""
    parts: tuple[Tensor, ...] = matrix.split(max(1, NEAR // matrix.shape[1]))
    return parts


def lost_points(logits: Tensor) -> int:
    """Return the number of points whose logits, of (n, K), give no probabilities: one is NaN or infinite.

    Minus infinity is no such one unless all are: a class is taken away with it, where only some of a model's are asked
    for.
    """
    return int((~logits.amax(1).isfinite()).sum())


def lost_rows(values: Tensor) -> int:
    """Return the number of rows, of (n, d), that have an entry that is not finite."""
    return int((~values.isfinite()).any(1).sum())


def require_rows(raw: Tensor, who: str, instead: str) -> None:
    """Refuse outputs that are not one row a point.

    Args:
        raw: the outputs.
        who: needs them, for the message.
        instead: what a model that gives one number a point may return.

    Raises:
        Unsupported: saying what to do.
    """
    if raw.dim() == 1:
        raise Unsupported(f"{who} one row of logits a point, the model gives one number f: let it return {instead}")
    if raw.dim() != 2:
        shape = ", ".join(map(str, raw.shape[1:]))
        raise Unsupported(
            f"{who} one row of logits a point, the outputs have shape (n, {shape}): let the model return the (n, K) of "
            "one answer a point"
        )


def outputs(surface: LossSurface) -> Outputs:
    """Return what the model predicts on the points, one forward for all measures; no targets are needed.

    Raises:
        Unsupported: for outputs that are no logits of at least two classes, one row a point.
    """
    if surface.criterion in NUMBERS:
        raise Unsupported("probabilities need logits of classes, the loss is one of numbers: give cross_entropy")
    raw = surface.clean_logits()
    require_rows(raw, "probabilities need", PAIR)
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
        Unsupported: where there are no such points, or they have no labels.
    """
    beside = surface.companion("validation")
    return outputs(beside), labels(beside)
