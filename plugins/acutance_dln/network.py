"""The diagonal linear network."""

from __future__ import annotations

from torch import Tensor, nn


class DiagonalLinearNetwork(nn.Module):
    r"""Predicts :math:`X \beta` with :math:`\beta = u \odot v` (Woodworth et al. 2020; the paper, Sec. 5.2).

    Args:
        u: (d,) first factor; copied.
        v: (d,) second factor; copied.

    Attributes:
        u: (d,) parameter.
        v: (d,) parameter.
    """

    def __init__(self, u: Tensor, v: Tensor) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(u.detach().clone()), nn.Parameter(v.detach().clone())

    @property
    def beta(self) -> Tensor:
        """The linear predictor, (d,)."""
        return self.u * self.v

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions, (n,), for inputs x, (n, d)."""
        return x @ self.beta
