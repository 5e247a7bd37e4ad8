r"""The trace of a symmetric operator that is known by its products only: Hutchinson, Hutch++ and XTrace.

Each is unbiased for random signs z, :math:`E z z^\top = I`. Probes are counter-based draws: they are drawn again where
they are needed again, not stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap

import torch
from torch import Tensor

from acutance.numerics.balls import gram
from acutance.numerics.basis import Basis, NonFiniteProduct
from acutance.numerics.lanczos import Product
from acutance.numerics.slopes import blocks

Draw = Callable[[int], Tensor]
Products = Callable[[Iterable[Tensor]], Iterator[tuple[Tensor, Tensor]]]

FIRST = 8  # the fewest samples whose standard error may end a sum


@dataclass(frozen=True)
class TraceEstimate:
    """An estimated trace.

    Attributes:
        value: the estimate.
        stderr: its standard error; None for a single sample.
        products: how many products with A were made.
        converged: whether the standard error is within the relative tolerance, where one was given.
        exactly_zero: whether every product was zero in every entry.
    """

    value: float
    stderr: float | None
    products: int
    converged: bool
    exactly_zero: bool = False


def mean_and_error(samples: list[float]) -> tuple[float, float | None]:
    """Return the mean of independent samples and its standard error; None for one sample.

    Raises:
        NonFiniteProduct: when a sample is not finite.
    """
    n = len(samples)
    mean = math.fsum(samples) / n if all(map(math.isfinite, samples)) else math.nan
    if math.isnan(mean):
        raise NonFiniteProduct
    if n < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((s - mean) ** 2 for s in samples) / (n - 1) / n)


def stages(limit: int, rtol: float, first: int = FIRST) -> Iterator[int]:
    """Yield the numbers of samples at which a running mean may stop: 8, 16, 32 ... and the limit.

    Few such points keep the bias small that comes of stopping where the samples happen to agree.
    """
    n = first
    while rtol > 0 and n < limit:
        yield n
        n *= 2
    yield limit


def close_enough(value: float, stderr: float | None, rtol: float) -> bool:
    """Return whether a standard error is within a relative tolerance; always, where none is asked for."""
    return rtol == 0 or (stderr is not None and stderr <= rtol * abs(value))


def one_by_one(product: Product) -> Products:
    """Return x, y ... -> (x, A x), (y, A y) ... with one product at a time: for operators that make one only."""
    return lambda xs: ((x, product(x)) for x in xs)


def adaptive_mean(first: Callable[[int], list[float]], limit: int, rtol: float) -> tuple[float, float | None, int]:
    """Return the mean of samples 0, 1, 2 ..., its standard error, and how many there were.

    Args:
        first: n -> the first n samples.
        limit: the most samples.
        rtol: relative standard error at which to stop; 0 for all of them.

    Raises:
        NonFiniteProduct: when a sample is not finite.
    """
    for n in stages(limit, rtol):
        mean, stderr = mean_and_error(first(n))
        if rtol > 0 and close_enough(mean, stderr, rtol):
            break
    return mean, stderr, n


def quadratic_form(z: Tensor, product: Tensor) -> tuple[float, float]:
    r"""Return :math:`z^\top A z` and :math:`\|A z\|^2` from z, (p,), and the product with it."""
    _, form, square = gram(blocks(z, product))
    return float(form), float(square)


def hutchinson(
    product: Product, draw: Draw, products: int, rtol: float = 0.0, many: Products | None = None
) -> TraceEstimate:
    r"""Return :math:`\frac1m \sum_k z_k^\top A z_k` (Hutchinson 1990).

    Args:
        product: x -> A x for x, (p,), which it may not change.
        draw: k -> z_k, (p,) random signs.
        products: m, at most.
        rtol: relative standard error at which to stop; 0 for all probes.
        many: makes several products; one by one by default.

    Raises:
        NonFiniteProduct: when a product is not finite.
    """
    many = many or one_by_one(product)
    forms: list[tuple[float, float]] = []

    def first(n: int) -> list[float]:
        forms.extend(starmap(quadratic_form, many(draw(k) for k in range(len(forms), n))))
        return [form for form, _ in forms]

    value, stderr, n = adaptive_mean(first, products, rtol)
    zero = all(square == 0 for _, square in forms)
    return TraceEstimate(value, stderr, n, close_enough(value, stderr, rtol), zero)


def hutch_plus_plus(
    product: Product, draw: Draw, products: int, rtol: float = 0.0, many: Products | None = None
) -> TraceEstimate:
    r"""Return :math:`tr(Q^\top A Q) + \frac1g \sum_k z_k^\top (I - QQ^\top) A (I - QQ^\top) z_k`.

    Q spans A times a third of the probes, and takes a second third of the products (Meyer, Musco, Musco, Woodruff
    2021). The g probes of the last third are other ones than those of Q: given Q they are independent and the estimate
    is unbiased, so their standard error is that of the whole. Memory: one (p,) vector for each column of Q.

    Args:
        product: x -> A x for x, (p,), which it may not change; it gives a new vector.
        draw: k -> z_k, (p,) random signs.
        products: at least 3.
        rtol: relative standard error at which to stop; 0 for all probes.
        many: makes several products; one by one by default.

    Raises:
        NonFiniteProduct: when a product is not finite.
    """
    size, many = products // 3, many or one_by_one(product)
    basis: Basis | None = None
    for z, y in many(draw(k) for k in range(size)):
        basis = basis if basis is not None else Basis(y)
        basis.insert(y)
        del z, y  # before the next product is made
    assert basis is not None
    inside = [form for form, _ in starmap(quadratic_form, many(basis[j] for j in range(len(basis))))]
    spent = size + len(basis)
    exact, _ = mean_and_error(inside) if inside else (0.0, None)
    exact *= len(inside)
    forms: list[tuple[float, float]] = []

    def outside(k: int) -> Tensor:
        z = draw(size + k)
        basis.subtract(z, basis.coefficients(z))
        return z

    for n in stages(products - spent, rtol):
        forms.extend(starmap(quadratic_form, many(outside(k) for k in range(len(forms), n))))
        rest, stderr = mean_and_error([form for form, _ in forms])
        if rtol > 0 and close_enough(exact + rest, stderr, rtol):
            break
    value, zero = exact + rest, not inside and all(square == 0 for _, square in forms)
    return TraceEstimate(value, stderr, spent + len(forms), close_enough(value, stderr, rtol), zero)


def xtrace(
    product: Product, draw: Draw, products: int, rtol: float = 0.0, many: Products | None = None
) -> TraceEstimate:
    r"""Return the mean of m leave-one-out estimates (Epperly, Tropp & Webber 2024, XTrace).

    With Q_i spanning A times all probes but z_i, each is
    :math:`tr(Q_i^\top A Q_i) + z_i^\top (I - Q_i Q_i^\top) A (I - Q_i Q_i^\top) z_i`. All are read off one Q and small
    matrices: :math:`Q_i Q_i^\top = Q (I - s_i s_i^\top) Q^\top`, and :math:`Q^\top A Z` is the triangle of Q itself
    since A is symmetric. It takes 2m products and holds m vectors. The standard error takes into account that the m
    estimates are not independent.

    Args:
        product: x -> A x for x, (p,), which it may not change; it gives a new vector.
        draw: k -> z_k, (p,) random signs.
        products: 2m, at least 4; an odd one is left over.
        rtol: relative standard error at which to stop; 0 for all probes.
        many: makes several products; one by one by default.

    Raises:
        NonFiniteProduct: when a product is not finite.
    """
    limit, many = products // 2, many or one_by_one(product)
    basis: Basis | None = None
    triangle, inner = torch.zeros(limit, limit, dtype=torch.float64), torch.zeros(limit, limit, dtype=torch.float64)
    spent = drawn = 0
    for m in stages(limit, rtol):
        size_before = 0 if basis is None else len(basis)
        i = drawn
        for z, y in many(draw(i) for i in range(drawn, m)):
            basis = basis if basis is not None else Basis(y)
            r, new = basis.insert(y)
            del z, y  # before the next product is made
            triangle[: len(r), i] = r
            if new > 0:
                triangle[len(basis) - 1, i] = new
            i += 1
        assert basis is not None
        size = len(basis)
        j = size_before
        for z, y in many(basis[j] for j in range(size_before, size)):
            inner[:size, j] = inner[j, :size] = basis.coefficients(y)
            del z, y
            j += 1
        spent += m - drawn + size - size_before
        drawn = m
        if size == 0:
            return TraceEstimate(0.0, 0.0, spent, True, exactly_zero=True)
        probes = torch.stack([basis.coefficients(draw(i)) for i in range(m)], dim=1)
        value, stderr = _LeaveOneOut.of(triangle[:size, :m], inner[:size, :size], probes).mean_and_error()
        if rtol > 0 and close_enough(value, stderr, rtol):
            break
    return TraceEstimate(value, stderr, spent, close_enough(value, stderr, rtol))


@dataclass(frozen=True)
class _LeaveOneOut:
    r"""The small matrices that all estimates with some probes left out are read off.

    Attributes:
        r: (k, m) :math:`Q^\top A Z`.
        h: (k, k) :math:`Q^\top A Q`.
        w: (k, m) :math:`Q^\top Z`.
        dual: (k, m) vectors, each orthogonal to what the other probes span; zero where these span everything.
    """

    r: Tensor
    h: Tensor
    w: Tensor
    dual: Tensor

    @classmethod
    def of(cls, r: Tensor, h: Tensor, w: Tensor) -> _LeaveOneOut:
        """Return these matrices with the dual vectors, which follow from r."""
        if not bool(torch.isfinite(r).all() and torch.isfinite(h).all()):
            raise NonFiniteProduct
        if len(r) == r.shape[1]:
            dual = torch.linalg.solve_triangular(r, torch.eye(len(r), dtype=r.dtype), upper=True).T
        else:
            dual = torch.linalg.pinv(r, rtol=1e-10).T
            dual = torch.where((dual * r).sum(0) > 1 - 1e-6, dual, torch.zeros_like(dual))
        return cls(r, h, w, _unit(dual))

    def estimates(self, which: Tensor, *removed: Tensor) -> Tensor:
        """Return estimates, (j,), with probes ``which``, (j,), each without orthonormal directions, (k, j) each."""
        w, r = self.w[:, which], self.r[:, which]
        outside = w
        exact = self.h.trace()
        for s in removed:
            outside = outside - s * (s * w).sum(0)
            exact = exact - (s * (self.h @ s)).sum(0)
        return exact + (w * r).sum(0) - 2 * (r * outside).sum(0) + (outside * (self.h @ outside)).sum(0)

    def mean_and_error(self) -> tuple[float, float | None]:
        r"""Return the mean of the m estimates :math:`t_i` and its standard error.

        The estimates share Q, so they are correlated. With :math:`t_{ij}` the estimate of probe i with Q without
        i and j, :math:`d_{ij} = t_i - t_{ij}` has mean zero given z_j, and :math:`t_{ij}`, :math:`t_{ji}` are
        independent given the others; so :math:`cov(t_i, t_j) = E\, d_{ij} d_{ji}`, and :math:`s^2/m` plus the mean of
        the products is an unbiased estimate of the variance of the mean.
        """
        m = self.r.shape[1]
        every = torch.arange(m)
        t = self.estimates(every, self.dual)
        value, naive = mean_and_error(t.tolist())
        if naive is None:
            return value, None
        d = torch.zeros(m, m, dtype=t.dtype)
        for j in range(m):
            s = self.dual[:, j : j + 1].expand_as(self.dual)
            other = _unit(self.dual - s * (s * self.dual).sum(0))
            d[:, j] = t - self.estimates(every, s, other)
        d.fill_diagonal_(0)
        shared = float((d * d.T).sum()) / (m * (m - 1))
        return value, math.sqrt(naive**2 + max(shared, 0.0))


def _unit(x: Tensor) -> Tensor:
    """Return the columns of x at length 1; those of length 0 stay."""
    unit: Tensor = x / x.norm(dim=0).clamp_min(1e-300)
    return unit
