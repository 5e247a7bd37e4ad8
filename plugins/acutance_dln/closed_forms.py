r"""The Hessian of a diagonal linear network, in closed form.

With :math:`\beta = u \odot v`, residual :math:`r = X\beta - y`, :math:`G = X^\top X`, :math:`g = X^\top r`,
:math:`U = \mathrm{diag}(u)`, :math:`V = \mathrm{diag}(v)` and the factor :math:`\kappa` of the loss,

.. math:: L = \frac\kappa2 \|X(u \odot v) - y\|^2, \qquad
   \nabla L = \kappa \begin{bmatrix} v \odot g \\ u \odot g \end{bmatrix}, \qquad
   H = \kappa \begin{bmatrix} V G V & V G U + \mathrm{diag}(g) \\ U G V + \mathrm{diag}(g) & U G U \end{bmatrix}

(Andriushchenko et al. 2023, Eq. 6 to 9 and Sec. A.2). The paper's Eq. 6 prints :math:`\|X(u \odot v) - y\|^2`, whose
Hessian has :math:`\kappa = 2`; its Hessian, Eq. 7 and 8, is that of :math:`\kappa = 1`. Eq. 7 prints both off-diagonal
blocks as :math:`V G U`; the lower left one is the transpose of the upper right one.

Everything here is a pure function of float64 tensors: x is (n, d), y and r are (n,), u and v are (d,), and the units
c = (c_u, c_v) of the weights are (2d,), or None for ones: the rescaled Hessian is :math:`H_c = H \odot cc^\top`.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONVENTIONS = ("half_squared_sum", "squared_sum", "mse")


def factor(loss: str, n: int) -> float:
    r"""Return :math:`\kappa` of a loss of n examples, :math:`L = \frac\kappa2 \|r\|^2`.

    It is 1 for ``half_squared_sum``, 2 for ``squared_sum`` (the paper's Eq. 6) and 2/n for ``mse``, a mean.

    Raises:
        KeyError: for another loss.
    """
    return {"half_squared_sum": 1.0, "squared_sum": 2.0, "mse": 2.0 / n}[loss]


def residual(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Return :math:`r = X(u \odot v) - y`, (n,)."""
    return x @ (u * v) - y


def gradient(x: Tensor, r: Tensor, u: Tensor, v: Tensor, kappa: float = 1.0) -> Tensor:
    r"""Return :math:`\nabla L = \kappa\, (v \odot X^\top r,\; u \odot X^\top r)`, (2d,)."""
    g = x.T @ r
    return kappa * torch.cat([v * g, u * g])


def hessian(x: Tensor, r: Tensor, u: Tensor, v: Tensor, c: Tensor | None = None, kappa: float = 1.0) -> Tensor:
    r"""Return :math:`H_c`, (2d, 2d), off the minimum too.

    .. math:: H_c = \kappa \Big( J^\top J + \begin{bmatrix} 0 & D \\ D & 0 \end{bmatrix} \Big), \qquad
       J = X\, [\mathrm{diag}(c_u \odot v),\; \mathrm{diag}(c_v \odot u)], \quad
       D = \mathrm{diag}(c_u \odot c_v \odot X^\top r)
    """
    d = len(u)
    c_u, c_v = _parts(c, u)
    jacobian = torch.cat([x * (c_u * v), x * (c_v * u)], dim=1)
    h = jacobian.T @ jacobian
    diagonal = c_u * c_v * (x.T @ r)
    h[:d, d:].diagonal().add_(diagonal)
    h[d:, :d].diagonal().add_(diagonal)
    return h.mul_(kappa)


def trace(x: Tensor, u: Tensor, v: Tensor, c: Tensor | None = None, kappa: float = 1.0) -> Tensor:
    r"""Return :math:`tr(H_c) = \kappa \sum_i G_{ii} (c_{u,i}^2 v_i^2 + c_{v,i}^2 u_i^2)`, 0-d, in O(nd).

    The residual does not enter. With unit columns, :math:`G_{ii} = 1`, it is :math:`2\kappa` times ``half_trace``.
    """
    return kappa * torch.dot(x.square().sum(0), _sums(u, v, c))


def top_eigenvalue(x: Tensor, r: Tensor, u: Tensor, v: Tensor, c: Tensor | None = None, kappa: float = 1.0) -> Tensor:
    r"""Return :math:`\lambda_{max}(H_c)`, 0-d, the algebraically largest, of the dense matrix: 4d^2 numbers, O(d^3).

    With orthonormal columns and no residual it is :math:`2\kappa` times ``half_top_eigenvalue``. It is NaN where the
    Hessian overflows.
    """
    h = hessian(x, r, u, v, c, kappa)
    if not bool(torch.isfinite(h).all()):
        return h.new_full((), torch.nan)
    values: Tensor = torch.linalg.eigvalsh(h)
    return values[-1]


def half_trace(u: Tensor, v: Tensor, c: Tensor | None = None) -> Tensor:
    r"""Return :math:`\frac12 \sum_i c_{u,i}^2 v_i^2 + c_{v,i}^2 u_i^2`, 0-d: half of tr(H_c) for unit columns.

    Unit columns, :math:`\mathrm{diag}(X^\top X) = 1`, are all it takes, at any residual and any n. It is
    :math:`\|\beta\|_1` for ``balanced`` c, :math:`\|\beta\|_2^2` for c = |w|.
    """
    return _sums(u, v, c).sum() / 2


def half_top_eigenvalue(u: Tensor, v: Tensor, c: Tensor | None = None) -> Tensor:
    r"""Return :math:`\frac12 \max_i c_{u,i}^2 v_i^2 + c_{v,i}^2 u_i^2`, 0-d: half of lambda_max(H_c), where simple.

    That takes orthonormal columns, :math:`X^\top X = I`, so :math:`n \ge d`, and no residual: then the pairs
    :math:`(u_i, v_i)` part, each with the matrix :math:`a a^\top`, :math:`a = (c_{u,i} v_i, c_{v,i} u_i)`, of rank one.
    It is :math:`\|\beta\|_\infty` for ``balanced`` c, :math:`\|\beta\|_\infty^2` for c = |w|.
    """
    return _sums(u, v, c).max() / 2


def balanced(u: Tensor, v: Tensor) -> Tensor:
    r"""Return the paper's c with u and v in their places, (2d,).

    .. math:: c_{u,i} = \sqrt{|u_i| / |v_i|}, \qquad c_{v,i} = \sqrt{|v_i| / |u_i|}

    It is the only c that gives both weights of a pair the same curvature,
    :math:`c_{u,i}^2 v_i^2 = c_{v,i}^2 u_i^2 = |\beta_i|` for unit columns, with :math:`c_{u,i}\, c_{v,i} = 1`. So
    :math:`\frac12 tr(H_c) = \|\beta\|_1`. It goes along with (a u, v / a): c_u is multiplied by a, c_v divided. The
    paper's text prints the two the other way round, which gives :math:`|v_i|^3 / |u_i| + |u_i|^3 / |v_i|` and no
    invariance.

    Where one of the two is zero the quotients are 0/0 or infinite, and c is 0 for both: the pair does not move. Its
    :math:`\beta_i` is zero, and as it goes to zero every entry of :math:`H_c` in its rows and columns does so too, but
    for :math:`\kappa g_i` between the two, which vanishes with the residual.
    """
    a, b = u.abs().sqrt(), v.abs().sqrt()  # roots first: a quotient of tiny weights would overflow
    moves = (a > 0) & (b > 0)
    one = torch.ones_like(a)
    c_u = torch.where(moves, a / torch.where(moves, b, one), 0)
    c_v = torch.where(moves, b / torch.where(moves, a, one), 0)
    return torch.cat([c_u, c_v])


def off_unit(x: Tensor) -> Tensor:
    r"""Return :math:`\max_i |G_{ii} - 1|`, 0-d: how far columns are from unit length."""
    return (x.square().sum(0) - 1).abs().max()


def off_orthonormal(x: Tensor) -> Tensor:
    r"""Return :math:`\max_{ij} |G - I|_{ij}`, 0-d; at least 1/d where n < d, as no such X has orthonormal columns."""
    gram = x.T @ x
    gram.diagonal().sub_(1)
    return gram.abs().max()


def _sums(u: Tensor, v: Tensor, c: Tensor | None) -> Tensor:
    c_u, c_v = _parts(c, u)
    return (c_u * v).square() + (c_v * u).square()


def _parts(c: Tensor | None, u: Tensor) -> tuple[Tensor, Tensor]:
    if c is None:
        return torch.ones_like(u), torch.ones_like(u)
    c_u, c_v = c.chunk(2)
    return c_u, c_v
