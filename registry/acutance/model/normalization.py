"""Logit normalization: the paper's and that of the released code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.model.many_classes import blocks_of_rows, many
from acutance.model.normalized_rows import NormScale, Rows, normalize_rows, normalized

TWO_CLASSES = (
    "logit normalization of two classes makes every pair of logits +-1, so that the loss is constant around almost "
    "every point: set logit_norm to false"
)


def normalize_logits(logits: Tensor, scale: NormScale = "paper") -> Tensor:
    r"""Return logits divided by their spread over the classes.

    .. math:: \tilde f = f \Big/ \sqrt{\tfrac1K \sum_k (f_k - \bar f)^2} \quad \text{(paper, Eq. 5)}, \qquad
       \tilde f = (f - \bar f) \big/ \max(\|f - \bar f\|_2, 10^{-10}) \quad \text{(released code)}

    The two differ by a factor sqrt(K), and a shift that cross-entropy does not see. With the paper's scale
    constant logits carry no direction: their value and gradient are those of the constant, not 0/0.

    Two logits keep nothing but their order: every pair becomes +-1 (paper) or +-1/sqrt(2), so the loss is constant
    wherever no prediction changes.

    Args:
        logits: (..., K), K >= 3.
        scale: ``paper`` or ``released``.

    Raises:
        Unsupported: for one or two outputs.
    """
    if logits.dim() < 2 or logits.shape[-1] < 2:
        raise Unsupported("logit normalization needs three classes or more, the model has one output")
    if logits.shape[-1] == 2:
        raise Unsupported(TWO_CLASSES)
    if not many(logits):
        return normalized(logits, scale)
    return normalize_rows(_rows(logits), scale)[0].view(logits.shape)


class Normalization:
    """What turns raw logits, (..., K), into normalized ones: in float64, of very many classes in their own type.

    Args:
        scale: ``paper`` or ``released``.
        wide: whether they are in float64 of very many classes too.
    """

    def __init__(self, scale: NormScale, wide: bool = False) -> None:
        self.scale, self.wide = scale, wide

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the normalized logits, differentiable."""
        return normalize_logits(logits if many(logits) and not self.wide else logits.double(), self.scale)

    def linearized(self, logits: Tensor) -> Jacobian:
        """Return products with the Jacobian at logits of very many classes."""
        with torch.no_grad():
            flat = _rows(logits.detach().double() if self.wide else logits.detach())
            y, rows = normalize_rows(flat, self.scale)
            return Jacobian(y.view(logits.shape), flat, rows, flat.dtype if not self.wide else logits.dtype)


@dataclass(frozen=True)
class Jacobian:
    """The Jacobian of normalized logits.

    Attributes:
        outputs: the normalized logits, (..., K).
    """

    outputs: Tensor
    _flat: Tensor
    _known: Rows
    _kind: torch.dtype

    def jvp(self, tangents: list[Tensor]) -> Tensor:
        """Return J v for the one tangent v, (..., K)."""
        return self._each("push", tangents[0])

    def vjp(self, u: Tensor) -> list[Tensor]:
        """Return J^T u, one tensor, (..., K)."""
        return [self._each("pull", u).to(self._kind)]

    def _each(self, name: str, x: Tensor) -> Tensor:
        flat, out = x.detach().to(self._flat).reshape(self._flat.shape), torch.empty_like(self._flat)
        for rows in blocks_of_rows(*flat.shape):
            getattr(self._known.at(rows), name)(self._flat[rows], flat[rows], out[rows])
        return out.view(self.outputs.shape)


def _rows(logits: Tensor) -> Tensor:
    """Return logits as rows, (rows, K); half precision has too few digits for sums over so many classes."""
    terms = logits if logits.dtype == torch.float64 else logits.float()
    return terms.reshape(-1, logits.shape[-1])
