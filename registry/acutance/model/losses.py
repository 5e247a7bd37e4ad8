r"""From logits to losses: cross-entropy, squared error, or a user's own function; logit normalization.

Everything from the logits on is done in float64, of very many classes the sums: near an interpolating minimum the loss
is a small difference of large logits, and sharpness is a small difference of losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from acutance.errors import NotInParts, Unsupported, UserError, did_you_mean, lacks_memory
from acutance.model.many_classes import cross_entropies
from acutance.model.many_classes import worthwhile as worthwhile  # plugins ask it of their logits
from acutance.model.normalization import Normalization
from acutance.model.normalized_rows import NormScale
from acutance.model.token_ids import padded_targets
from acutance.numerics.few_logits import cross_entropy as few_cross_entropy
from acutance.numerics.few_logits import few
from acutance.own_code import is_own, load_function

# (logits, targets) -> the 0-d mean loss over the examples, or (losses, weights), each (n,), for sum(w l) / sum(w).
LossFunction = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`-\log \mathrm{softmax}(f)_y`, (n,) float64, for logits (n, K) and class indices (n,).

    An example of class -100 has loss 0; where the logits are ``worthwhile``, derivatives of 0 whatever its logits are.
    """
    if worthwhile(logits):
        return cross_entropies(logits, targets)
    return F.cross_entropy(logits.double(), targets, reduction="none")


def mse(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\sum_k (f_k - y_k)^2`, (n,), for outputs and targets of the same size per example."""
    difference = logits.reshape(len(logits), -1).double() - targets.reshape(len(targets), -1).double()
    return difference.square().sum(dim=1)


def half_mse(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\frac12 \sum_k (f_k - y_k)^2`, (n,)."""
    return mse(logits, targets) / 2


PER_EXAMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "squared_sum": mse,
    "half_squared_sum": half_mse,
}
ALL_AT_ONCE = (
    "let it return (losses, weights), each (n,), for sum(w l) / sum(w), or make room for all examples in one pass "
    "(microbatch None, a smaller m)"
)
SUMS = {"squared_sum", "half_squared_sum"}  # over the examples of a batch; the others are means


def transform_of(logit_norm: bool, scale: NormScale, wide: bool = False) -> Callable[[Tensor], Tensor]:
    """Return what turns raw logits into what the loss sees: nothing, or normalization with sums in float64.

    Args:
        logit_norm: whether logits are normalized.
        scale: how.
        wide: whether the loss wants normalized logits in float64, also of very many classes.
    """
    if logit_norm:
        return Normalization(scale, wide)
    return lambda logits: logits


NO_TARGETS = "there are no targets here: the points have none, or the measure has declared that it looks at none"
IGNORED = -100  # the label that torch's cross-entropy leaves out by default


class LossHead:
    r"""Turns logits into losses.

    Args:
        loss: ``cross_entropy``, ``mse``, ``squared_sum``, ``half_squared_sum``, or a function of (logits, targets),
            itself or as ``module:function``. It gives the 0-d mean loss over the examples, or (losses, weights), each
            (n,), where the loss is the weighted mean :math:`\sum_i w_i l_i / \sum_i w_i`; the weights follow from the
            targets alone.

    Attributes:
        criterion: the loss by its name, or the function.
        sums: whether the loss of a batch is the sum over its examples, not their mean.
        weight: :math:`\sum_i w_i` over all examples of a function that gives weights; None for every other loss.

    Raises:
        UserError: for an unknown name.
    """

    def __init__(self, loss: str | LossFunction) -> None:
        if isinstance(loss, str) and is_own(loss):
            loss = load_function(loss)
        if isinstance(loss, type):
            raise UserError(f"loss: {loss.__name__} is a class, not a loss", f"make one: {loss.__name__}()")
        if not callable(loss) and (not isinstance(loss, str) or loss not in PER_EXAMPLE):
            raise UserError(f"loss: unknown loss '{loss}'", did_you_mean(str(loss), list(PER_EXAMPLE)))
        self.loss = self.criterion = loss
        self.classifies = loss == "cross_entropy"
        self.sums = isinstance(loss, str) and loss in SUMS
        self.weight: Tensor | None = None

    @property
    def wide(self) -> bool:
        """Whether normalized logits are given to it in float64, however many: a function's sums have their type."""
        return callable(self.loss) and not getattr(self.loss, "in_own_type", False)

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        r"""Return per-example losses, (n,) float64; their mean is ``value`` (their sum, where the loss is one).

        With weights the loss of an example is its share of the weighted mean, :math:`n w_i l_i / \sum_j w_j`.
        """
        if not callable(self.loss):
            return PER_EXAMPLE[self.loss](logits, targets)
        if self.weight is None:
            return torch.stack([self.value(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))])
        return self._weighted(logits, targets) * (len(targets) / self.weight)

    def part(self, logits: Tensor, targets: Tensor, n: int) -> Tensor:
        """Return what these examples, some of n, contribute to the loss of all, 0-d; the parts' sum is ``value``."""
        if self.weight is not None:
            return self._weighted(logits, targets).sum() / self.weight
        if len(targets) == n:
            return self.value(logits, targets)
        try:
            value = self.value(logits, targets)
        except (RuntimeError, IndexError, ValueError) as error:
            if lacks_memory(error):
                raise
            why = f"your loss cannot be computed of {len(targets)} of {n} examples ({str(error).splitlines()[0]})"
            raise NotInParts(why, ALL_AT_ONCE) from error
        return value if self.sums else value * (len(targets) / n)

    def example(self, logits: Tensor, targets: Tensor, n: int) -> Tensor:
        """Return the loss of one example of n, 0-d: an entry of ``losses``."""
        return self.value(logits, targets) if self.weight is None else self.part(logits, targets, n) * n

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the 0-d float64 loss of these examples: their mean, or their sum where the loss is one."""
        if self.classifies and not worthwhile(logits):
            return F.cross_entropy(logits.double(), targets)
        if not callable(self.loss):
            losses = self.losses(logits, targets)
            return losses.sum() if self.sums else losses.mean()
        result = self._call_loss(logits, targets)
        return result if isinstance(result, Tensor) else (result[0] * result[1]).sum() / result[1].sum()

    def reading(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return ``value`` of logits that nothing is differentiated through, or ``value`` itself where one is."""
        if self.classifies and few(logits, targets):
            return few_cross_entropy(logits, targets)[0]
        return self.value(logits, targets)

    def slope(self, logits: Tensor, targets: Tensor, n: int) -> tuple[Tensor, Tensor] | None:
        """Return ``part`` and its gradient in the logits, (rows, K), where both come of one walk; None elsewhere."""
        if not (self.classifies and few(logits, targets)):
            return None
        loss, gradient = few_cross_entropy(logits, targets)
        share = len(targets) / n
        return (loss, gradient) if share == 1 else (loss * share, gradient.mul_(share))

    def _call_loss(self, logits: Tensor, targets: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return what the user's function gives, in float64."""
        assert callable(self.loss)
        result: Any = self.loss(logits, targets)
        if isinstance(result, Tensor) and result.dim() == 0:
            return result.double()
        n = len(targets)
        if isinstance(result, tuple) and [getattr(part, "shape", None) for part in result] == [(n,), (n,)]:
            losses, weights = result
            return losses.double(), weights.detach().double()
        raise UserError(
            f"loss: your function must return a 0-d tensor, the mean loss over the examples, but gave {_shape(result)}",
            f"take the mean, or return (losses, weights), each of shape ({n},), for a weighted mean",
        )

    def _weighted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return w_i l_i, (n,)."""
        losses, weights = self._call_loss(logits, targets)
        return losses * weights

    def weigh(self, logits: Tensor, targets: Tensor) -> None:
        """Find out whether the user's function gives weights, and their sum.

        Args:
            logits: of some examples; stand for all, since weights follow from the targets.
            targets: all targets, (n,).

        Raises:
            UserError: for weights that change with the logits, are negative or not finite, or sum to zero.
        """
        if not callable(self.loss):
            return
        rows = torch.arange(len(targets), device=logits.device) % len(logits)
        with torch.no_grad():
            results = [self._call_loss(logits[order], targets) for order in (rows, rows.flip(0))]
        if isinstance(results[0], Tensor) or isinstance(results[1], Tensor):
            return
        (_, weights), (_, other) = results
        if not bool(((weights >= 0) & (weights < torch.inf)).all() & (weights.sum() > 0)):
            raise UserError(
                "loss: the weights that your function returns must be finite, not negative, and not all 0",
                "leave out batches in which no example counts",
            )
        if not torch.equal(weights, other):
            raise UserError(
                "loss: the weights that your function returns change with the logits",
                "weights must follow from the targets alone; what depends on the logits belongs into the losses",
            )
        self.weight = weights.sum()

    def check_inputs(self, inputs: Any, targets: Tensor) -> str:
        """Refuse inputs whose targets the user's own function says it cannot take; return what else is doubtful.

        Args:
            inputs: of all points.
            targets: all targets, (n, ...).

        Raises:
            UserError: the function's own sentence.
        """
        if not callable(self.loss):
            return ""
        if refuses := getattr(self.loss, "refuses_inputs", None):
            refuses(inputs, targets)
            return ""
        return padded_targets(inputs, targets)

    def check(self, logits: Tensor, rows: int, targets: Tensor) -> None:
        """Refuse outputs and labels that do not fit together.

        Args:
            logits: the model's answer to the first ``rows`` examples.
            rows: how many examples it was given.
            targets: all targets, (n,).

        Raises:
            UserError: for a wrong number of rows, targets that do not fit the outputs, labels outside the classes.
        """
        shape = tuple(logits.shape)
        if logits.dim() == 0 or len(logits) != rows:
            raise UserError(
                f"the model returned logits of shape {shape} for {rows} examples", "the first axis must be the example"
            )
        if self.classifies:
            _check_labels(shape, targets)
        elif not callable(self.loss):
            _check_numbers(str(self.loss), shape[1:], targets)
        elif (refuses := getattr(self.loss, "refuses", None)) is not None:
            refuses(logits, targets)


class Unlabelled(LossHead):
    """The head of points whose targets nobody gave, or that a label-free measure must not see: it has no losses.

    Args:
        loss: of the points if they had targets, which says what the outputs are.
    """

    def __init__(self, loss: str | LossFunction) -> None:
        super().__init__("cross_entropy")
        self.loss, self.classifies, self.criterion = "none", False, loss

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Refuse.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(NO_TARGETS)

    def part(self, logits: Tensor, targets: Tensor, n: int) -> Tensor:
        """Refuse."""
        return self.losses(logits, targets)

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Refuse."""
        return self.losses(logits, targets)

    def weigh(self, logits: Tensor, targets: Tensor) -> None:
        """Do nothing: there are no weights."""

    def check(self, logits: Tensor, rows: int, targets: Tensor) -> None:
        """Refuse outputs without a row an example."""
        if logits.dim() == 0 or len(logits) != rows:
            super().check(logits, rows, targets)


def _check_labels(shape: tuple[int, ...], targets: Tensor) -> None:
    """Refuse what cross-entropy cannot compare: outputs of a shape, and all targets."""
    if len(shape) != 2:
        given = f"outputs of shape (n{''.join(f', {size}' for size in shape[1:])})"
        hint = "let the model return one row a point, or give loss a function of your own"
        if len(shape) == 1:
            given = "one number f a point"
            hint = (
                "let it return torch.stack([torch.zeros_like(f), f], 1), the logits of two classes, or give loss a "
                "function of your own (binary_cross_entropy_with_logits)"
            )
        if len(shape) > 2 and tuple(targets.shape[1:]) == shape[2:]:
            hint = "a class at every place: give loss=torch.nn.functional.cross_entropy, which takes (n, K, ...)"
        elif len(shape) > 2 and tuple(targets.shape[1:]) == shape[1:-1]:
            hint = "a class at every place: give a loss of your own, of (f.flatten(0, -2), y.flatten())"
        raise UserError(f"cross_entropy needs logits of shape (n, K), the model gives {given}", hint)
    if shape[1] == 1:
        raise UserError(
            "cross_entropy of a single output is 0 whatever it is: the model has one logit",
            "let the model return (0, f), or give loss a function of your own (binary_cross_entropy_with_logits)",
        )
    if targets.dim() == 1 and targets.is_floating_point() and bool((targets == targets.round()).all()):
        raise UserError(
            f"cross_entropy needs integer class labels, got whole numbers as {targets.dtype}", "write targets.long()"
        )
    if targets.is_floating_point() or targets.dim() != 1:
        raise UserError(
            f"cross_entropy needs integer class labels of shape (n,), got {targets.dtype} {tuple(targets.shape)}",
            "give class numbers: targets.argmax(1) of one-hot rows, targets.squeeze(1) of a column",
        )
    low, high, classes = int(targets.min()), int(targets.max()), shape[1]
    if low < 0 or high >= classes:
        hint = "check the dataset's labels or map the classes"
        if low == IGNORED and high < classes:
            hint = f"where {IGNORED} is a label to ignore give loss=torch.nn.CrossEntropyLoss(), which leaves these out"
        raise UserError(
            f"labels run from {low} to {high} but the model has {classes} classes (0 to {classes - 1})", hint
        )


def _check_numbers(loss: str, outputs: tuple[int, ...], targets: Tensor) -> None:
    """Refuse targets that a squared distance would stretch: an example needs as many numbers as it has outputs."""
    wanted = tuple(targets.shape[1:])
    flat = len(outputs) < 2 or len(wanted) < 2
    same = [size for size in outputs if size > 1] == [size for size in wanted if size > 1]
    if not (same or (flat and math.prod(outputs) == math.prod(wanted))):
        several = f" {outputs}" if len(outputs) > 1 else ""
        hint = "give targets of the shape of the outputs"
        if not wanted and not targets.is_floating_point():
            hint = f"write loss: cross_entropy for class labels, or give them one-hot: one_hot(targets, {outputs[0]})"
        raise UserError(
            f"{loss} needs a number for each output: an example has {math.prod(outputs)} outputs{several}, but targets "
            f"of shape {tuple(targets.shape)}",
            hint,
        )


def _shape(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shape, value))})"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"shape {tuple(shape)}"
