r"""Lanczos with full reorthogonalisation, for the ends of a spectrum and for its density.

From a start v, k products with a symmetric A give an orthonormal V, (p, k), and a tridiagonal
:math:`T = V^\top A V` (Lanczos 1950). With :math:`T s = \theta s`, the Ritz value :math:`\theta` has the residual
:math:`r = \beta_k |s_k|`, and :math:`s_1^2` is its weight in Gauss's quadrature of the spectrum seen from v
(Golub & Welsch 1969; Ghorbani et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.numerics.basis import Basis, length

Product = Callable[[Tensor], Tensor]

# The gap is to eigenvalues that the run has resolved: one whose eigenvector is nearly orthogonal to the start appears
# late. So bounds are this much larger.
SAFETY = 4.0


@dataclass(frozen=True)
class Ritz:
    """What a run of k products knows of the spectrum, largest first, in double precision.

    Attributes:
        values: (k,) Ritz values.
        residuals: (k,) norms of A y - theta y.
        weights: (k,) squares of the first components; they sum to 1.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor

    def bounds(self, k: int = 1) -> Tensor:
        r"""Return how far the k largest Ritz values may be from eigenvalues, (k,).

        The smaller of r and :math:`r^2 / \mathrm{gap}` (Kato 1949; Temple 1928), where the gap is that to the
        neighbouring Ritz values less their residuals, times a safety factor.
        """
        theta, r = self.values, self.residuals
        infinite = torch.full((1,), torch.inf, dtype=theta.dtype)
        below = torch.cat([theta[:-1] - theta[1:] - r[1:], infinite])
        above = torch.cat([infinite, theta[:-1] - r[:-1] - theta[1:]])
        gap = torch.minimum(below, above)
        # One Ritz value says nothing about a gap.
        wide = (gap > r) & torch.isfinite(gap)
        return SAFETY * torch.where(wide, r * r / gap.clamp_min(1e-300), r)[:k]

    @property
    def norm(self) -> float:
        """The largest magnitude: a lower bound of the norm of A."""
        return float(self.values.abs().max())


class Lanczos:
    """A run that can be continued, and looked at as it was after fewer products.

    It holds one (p,) vector for each product, besides what the product itself needs, and no reference to A, which
    ``extend`` takes.

    Args:
        start: (p,) any vector but zero; overwritten.

    Attributes:
        exhausted: whether a subspace that A leaves alone was found: more products bring nothing.
    """

    def __init__(self, start: Tensor) -> None:
        self._basis: Basis | None = Basis(start)
        self._basis.insert(start)
        self._alphas: list[float] = []
        self._betas: list[float] = []
        self.exhausted = not len(self._basis)

    @property
    def products(self) -> int:
        """How many products were made."""
        return len(self._alphas)

    @property
    def nbytes(self) -> int:
        """Memory of the vectors."""
        if self._basis is None or not len(self._basis):
            return 0
        return len(self._basis) * self._basis[0].numel() * self._basis[0].element_size()

    @property
    def can_continue(self) -> bool:
        """Whether the vectors are still held."""
        return self._basis is not None

    def forget(self) -> None:
        """Free the vectors: the run can be looked at, but not continued."""
        self._basis = None

    def extend(self, product: Product, k: int) -> int:
        """Continue to k products, or to fewer where the subspace is exhausted.

        Args:
            product: x -> A x for x, (p,), which it may not change; it gives a new vector.
            k: products in total.

        Returns:
            How many there are: at most k.

        Raises:
            NonFiniteProduct: when a product is not finite; the run stays as it was before it.
            RuntimeError: when the vectors were freed.
        """
        while self.products < k and not self.exhausted:
            if self._basis is None:
                raise RuntimeError("the vectors of this run were freed")
            self._step(self._basis, product)
        return min(k, self.products)

    def _step(self, basis: Basis, product: Product) -> None:
        """Make one product with A, and with it one more row of T and one more vector of V."""
        v = basis[self.products]
        u = product(v)
        length(u)
        # The recurrence first: what is left for the basis to remove is rounding, and one projection is enough.
        if self._betas:
            u.add_(basis[self.products - 1], alpha=-self._betas[-1])
        alpha = float(torch.dot(u, v))
        u.add_(v, alpha=-alpha)
        c, beta = basis.insert(u)
        del u
        self._alphas.append(alpha + float(c[-1]))
        self._betas.append(beta)
        scale = max(map(abs, (*self._alphas, *self._betas)))
        self.exhausted = beta <= 10 * torch.finfo(v.dtype).eps * scale

    def ritz(self, k: int | None = None) -> Ritz:
        """Return what was known after k products; after all by default.

        Args:
            k: at least 1, at most ``products``.
        """
        k = self.products if k is None else k
        t = torch.diag(torch.tensor(self._alphas[:k], dtype=torch.float64))
        off = torch.tensor(self._betas[: k - 1], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(t + torch.diag(off, 1) + torch.diag(off, -1))
        beta = 0.0 if self.exhausted and k == self.products else self._betas[k - 1]
        return Ritz(values.flip(0), (beta * vectors[-1].abs()).flip(0), vectors[0].square().flip(0))

    def vectors(self, count: int, k: int | None = None) -> list[Tensor]:
        r"""Return the Ritz vectors :math:`y = V s` of the largest values after k products, (p,) each, of length 1.

        Args:
            count: how many; fewer where k products have no more.
            k: at least 1, at most ``products``; all by default.

        Raises:
            RuntimeError: when the vectors were freed.
        """
        if self._basis is None:
            raise RuntimeError("the vectors of this run were freed")
        k = self.products if k is None else k
        off = torch.tensor(self._betas[: k - 1], dtype=torch.float64)
        t = torch.diag(torch.tensor(self._alphas[:k], dtype=torch.float64))
        s = torch.linalg.eigh(t + torch.diag(off, 1) + torch.diag(off, -1)).eigenvectors.flip(1)
        found = []
        for j in range(min(count, k)):
            y = torch.zeros_like(self._basis[0])
            for i in range(k):
                y.add_(self._basis[i], alpha=float(s[i, j]))
            found.append(y.div_(torch.linalg.vector_norm(y)))
        return found

    def mass_below(self, x: float, k: int | None = None) -> tuple[float, float]:
        r"""Return the least and the greatest share of the spectrum, seen from the start, that can lie below x.

        Of all measures that agree with what k products tell, the quadrature with a node at x and the others from it
        is the extreme one (Chebyshev, Markov and Stieltjes; Golub & Meurant 2010): what lies on its nodes below x is
        the least, and the weight at x what k products cannot place. No other rule on k products says more.

        Args:
            x: where to cut.
            k: at least 1, at most ``products``; all by default.
        """
        k = self.products if k is None else k
        if self.exhausted and k == self.products:
            ritz = self.ritz(k)
            return (float(ritz.weights[ritz.values < x].sum()),) * 2
        if k == 1:
            return 0.0, 1.0
        alphas = torch.tensor(self._alphas[:k], dtype=torch.float64)
        off = torch.tensor(self._betas[: k - 1], dtype=torch.float64)
        smallest = 1e-8 * float(torch.maximum(alphas.abs().max(), off.max()))
        pivot = self._alphas[0] - x
        for alpha, beta in zip(self._alphas[1 : k - 1], self._betas, strict=False):
            pivot = alpha - x - beta * beta / _away(pivot, smallest)
        # The last entry that makes x an eigenvalue (Golub 1973, Gauss-Radau).
        alphas[-1] = x + self._betas[k - 2] ** 2 / _away(pivot, smallest)
        values, vectors = torch.linalg.eigh(torch.diag(alphas) + torch.diag(off, 1) + torch.diag(off, -1))
        weights, at = vectors[0].square(), int((values - x).abs().argmin())
        least = float(weights[:at].sum())
        return least, least + float(weights[at])


def _away(pivot: float, smallest: float) -> float:
    """Return a pivot no nearer to zero than is safe to divide by."""
    return pivot if abs(pivot) >= smallest else math.copysign(smallest, pivot)


@dataclass(frozen=True)
class Eigenvalues:
    """The algebraically largest eigenvalues.

    Attributes:
        values: largest first.
        bounds: how far each may be from an eigenvalue.
        products: how many products they rest on.
        converged: whether all bounds are within the tolerance.
        ritz: the run they were read off.
    """

    values: list[float]
    bounds: list[float]
    products: int
    converged: bool
    ritz: Ritz


def largest_eigenvalues(
    product: Product, run: Lanczos, tol: float = 1e-4, max_products: int = 100, k: int = 1
) -> Eigenvalues:
    r"""Return the k algebraically largest eigenvalues of A: the first point of the run where the bounds allow it.

    It stops where the bound of each is at most tol times its magnitude. A run that went further gives the same
    values as a new one. One start vector sees an eigenvalue of any multiplicity once.

    Args:
        product: x -> A x.
        run: a new run, or one to continue or to read.
        tol: relative tolerance.
        max_products: where to stop in any case.
        k: how many; fewer where the run has no more.

    Raises:
        NonFiniteProduct: when a product is not finite.
    """
    for j in range(1, max_products + 1):
        products = run.extend(product, j)
        ritz = run.ritz(products)
        values, bounds = ritz.values[:k], ritz.bounds(k)
        end = run.exhausted and products == run.products
        floor = torch.finfo(torch.float64).eps * ritz.norm
        converged = end or (products >= k and bool((bounds <= tol * values.abs() + floor).all()))
        if converged or j == max_products:
            break
    return Eigenvalues(values.tolist(), bounds.tolist(), products, converged, ritz)
