r"""From logits to losses: cross-entropy, squared error, or a user's own function; logit normalization.

Everything from the logits on is done in float64: near an interpolating minimum the loss is a small
difference of large logits, and sharpness is a small difference of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from acutance.errors import Unsupported, UserError, did_you_mean
from acutance.own_code import is_own, load_function

LossFunction = Callable[[Tensor, Tensor], Tensor]
NormScale = Literal["paper", "released"]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`-\log \mathrm{softmax}(f)_y`, (n,), for logits (n, K) and class indices (n,)."""
    return F.cross_entropy(logits, targets, reduction="none")


def mse(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\sum_k (f_k - y_k)^2`, (n,), for outputs and targets of the same size per example."""
    difference = logits.reshape(len(logits), -1) - targets.reshape(len(targets), -1).double()
    return difference.square().sum(dim=1)


def half_mse(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\frac12 \sum_k (f_k - y_k)^2`, (n,)."""
    return mse(logits, targets) / 2


PER_EXAMPLE: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "squared_sum": mse,
    "half_squared_sum": half_mse,
}
SUMS = {"squared_sum", "half_squared_sum"}  # over the examples of a batch; the others are means


def normalize_logits(logits: Tensor, scale: NormScale = "paper") -> Tensor:
    r"""Return logits divided by their spread over the classes.

    .. math:: \tilde f = f \Big/ \sqrt{\tfrac1K \sum_k (f_k - \bar f)^2} \quad \text{(paper, Eq. 5)}, \qquad
       \tilde f = (f - \bar f) \big/ \max(\|f - \bar f\|_2, 10^{-10}) \quad \text{(released code)}

    The two differ by a factor sqrt(K), and a shift that cross-entropy does not see. With the paper's scale
    constant logits carry no direction: their value and gradient are those of the constant, not 0/0.

    Args:
        logits: (n, K), K >= 2.
        scale: ``paper`` or ``released``.

    Raises:
        Unsupported: for one output.
    """
    if logits.dim() < 2 or logits.shape[-1] < 2:
        raise Unsupported("logit normalization needs at least two classes: expand a single logit to (0, f)")
    if scale == "released":
        centred = logits - logits.mean(dim=-1, keepdim=True)
        squared = centred.square().sum(dim=-1, keepdim=True)
        # sqrt has no derivative at 0; below the floor the divisor is a constant.
        small = squared <= 1e-20
        return centred / squared.masked_fill(small, 1.0).sqrt().masked_fill(small, 1e-10)
    variance = logits.var(dim=-1, correction=0, keepdim=True)
    constant = variance == 0
    return torch.where(constant, logits, logits / variance.masked_fill(constant, 1.0).sqrt())


def transform_of(logit_norm: bool, scale: NormScale) -> Callable[[Tensor], Tensor]:
    """Return what turns raw logits into what the loss sees: nothing, or normalization in float64."""
    if logit_norm:
        return lambda logits: normalize_logits(logits.double(), scale)
    return lambda logits: logits


class LossHead:
    """Turns logits into losses.

    Args:
        loss: ``cross_entropy``, ``mse``, ``squared_sum``, ``half_squared_sum``, or a function of (logits, targets)
            giving the 0-d mean loss, itself or as ``module:function``.

    Attributes:
        sums: whether the loss of a batch is the sum over its examples, not their mean.

    Raises:
        UserError: for an unknown name.
    """

    def __init__(self, loss: str | LossFunction) -> None:
        if isinstance(loss, str) and is_own(loss):
            loss = load_function(loss)
        if not callable(loss) and loss not in PER_EXAMPLE:
            raise UserError(f"loss: unknown loss '{loss}'", did_you_mean(str(loss), list(PER_EXAMPLE)))
        self.loss = loss
        self.classifies = loss == "cross_entropy"
        self.sums = isinstance(loss, str) and loss in SUMS

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return per-example losses, (n,) float64."""
        if not callable(self.loss):
            return PER_EXAMPLE[self.loss](logits.double(), targets)
        rows = [self.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))]
        return torch.stack([row.double() for row in rows])

    def share(self, rows: int, n: int) -> float:
        """Return the weight of the loss of some rows in that of all n."""
        return 1.0 if self.sums else rows / n

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the 0-d float64 loss of these examples: their mean, or their sum where the loss is one."""
        if self.classifies:
            return F.cross_entropy(logits.double(), targets)
        if not callable(self.loss):
            losses = self.losses(logits, targets)
            return losses.sum() if self.sums else losses.mean()
        value = self.loss(logits, targets)
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise UserError("loss: your function must return a 0-d tensor, the mean loss over the examples")
        return value.double()

    def check(self, logits: Tensor, rows: int, targets: Tensor) -> None:
        """Refuse outputs and labels that do not fit together.

        Args:
            logits: the model's answer to the first ``rows`` examples.
            rows: how many examples it was given.
            targets: all targets, (n,).

        Raises:
            UserError: for a wrong number of rows, or labels outside the classes.
        """
        shape = tuple(logits.shape)
        if logits.dim() == 0 or len(logits) != rows:
            raise UserError(
                f"the model returned logits of shape {shape} for {rows} examples", "the first axis must be the example"
            )
        if not self.classifies:
            return
        if logits.dim() != 2:
            raise UserError(f"cross_entropy needs logits of shape (n, K), got {shape}")
        if targets.is_floating_point() or targets.dim() != 1:
            raise UserError(
                f"cross_entropy needs integer class labels of shape (n,), got {targets.dtype} {tuple(targets.shape)}"
            )
        low, high, classes = int(targets.min()), int(targets.max()), shape[1]
        if low < 0 or high >= classes:
            raise UserError(
                f"labels run from {low} to {high} but the model has {classes} classes (0 to {classes - 1})",
                "check the dataset's labels or map the classes",
            )
