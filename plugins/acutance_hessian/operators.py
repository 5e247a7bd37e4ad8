r"""The rescaled Hessian of one view of a surface as an operator, and what the measures share of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported, Untracked
from acutance.measure import Estimate, Status
from acutance.numerics.basis import NonFiniteProduct
from acutance.numerics.draws import Streams
from acutance.numerics.lanczos import Lanczos
from acutance.numerics.slopes import scaled
from acutance.numerics.traces import Products, one_by_one, quadratic_form
from acutance_hessian.differences import UNUSABLE, Differences, Step

if TYPE_CHECKING:
    from acutance.measure import SharpnessSpec
    from acutance.surface import LossSurface

OWN = ("acutance/hessian", "acutance/gauss_newton", "acutance/directional")
KEPT = 32 << 20  # bytes of a Lanczos run's vectors that may stay on a surface for the next measure

NONFINITE = "a product with the Hessian is not finite: the loss overflows at these weights; try dtype float64"
CHOICES = (
    "choose product: finite_difference, which needs gradients only, or put an operation in its place that can be "
    "differentiated twice"
)
ZERO = (
    "every product with the Hessian is exactly zero: the loss does not depend on the free parameters where c > 0, or "
    "the softmax is saturated in this precision; check the pattern and the scaling, or try dtype float64"
)


class Curvature:
    r"""Products with :math:`H_c = D_c H D_c`, and the random vectors that all measures of curvature share.

    Args:
        surface: the loss surface.
        spec: says which parameters are free, the loss transform and c.
        rng: the measure's noise; the name of the measure is taken out of it.

    Attributes:
        view: the surface with the spec's parameters and transform.
        c: (p,), a vector or made block by block, or None for ones.
    """

    def __init__(self, surface: LossSurface, spec: SharpnessSpec, rng: Streams) -> None:
        base = surface.restricted(spec.parameters)
        self.view = base.transformed(spec.logit_norm, spec.norm_scale)
        self.c = scaling.by_block(base, spec.scaling)
        self._streams = Streams(*(part for part in rng.context if not str(part).startswith(OWN)), "curvature")
        self._by_differences = getattr(spec, "product", "exact") == "finite_difference"
        self._name = (spec.scaling, self._by_differences, self._streams.context)
        self._differences: Differences | None = None

    @property
    def p(self) -> int:
        """Number of free parameters."""
        return self.view.w.numel()

    def hessian(self, x: Tensor) -> Tensor:
        """Return H_c x, (p,), new memory.

        Raises:
            Unsupported: when some operation has no second derivative, with what can be done about it.
        """
        if self._by_differences:
            return self._difference(x)
        with choices():
            return self._scaled(self.view.hvp, x)

    def products(self, xs: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x, H_c x): so many in one pass as the surface likes, the rest one by one."""
        xs, together = iter(xs), self.together
        if together == 1:
            yield from one_by_one(self.hessian)(xs)
            return
        while len(block := list(islice(xs, together))) == together:
            with choices():
                block_products = self._scaled(self.view.hvps, torch.stack(block))
            yield from zip(block, block_products, strict=True)
        yield from one_by_one(self.hessian)(block)

    @property
    def together(self) -> int:
        """How many products are made in one pass."""
        if self._by_differences:
            return 1
        with choices():
            return self.view.products_together

    def _difference(self, x: Tensor) -> Tensor:
        length = self.step.length
        return self._by_steps().product(x, length)

    def _by_steps(self) -> Differences:
        if self._differences is None:
            self._differences = Differences(self.view, self.c)
        return self._differences

    @property
    def step(self) -> Step:
        """The length of the differences and their error, found on the first random signs."""

        def choose() -> Step:
            return self._by_steps().choose(self.signs(0))

        return self.view.memo(("curvature.step", *self._name), choose)

    def with_product_error(self, estimate: Estimate) -> Estimate:
        """Return an estimate with the error of its products, where they are differences."""
        if not self._by_differences or not math.isfinite(estimate.value):
            return estimate
        step = self.step
        extras = {**estimate.extras, "product_error": step.error, "step": step.length}
        if step.error <= UNUSABLE:
            return replace(estimate, extras=extras)
        message = (
            f"products by finite differences change by {step.error:.0%} with their step: the gradient is not smooth "
            "enough here (ReLU), or drowns in rounding: try dtype float64, or exact products"
        )
        return replace(estimate, status=Status.NOT_CONVERGED, message=message, extras=extras)

    def _scaled(self, product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.c is None:
            return product(x)
        found = product(scaled(x, self.c))
        return scaled(found, self.c, out=found)

    def gauss_newton(self, x: Tensor) -> Tensor:
        """Return G_c x, (p,), new memory."""
        return self._scaled(self.view.ggnvp, x)

    def quadratic(self, x: Tensor) -> tuple[float, float]:
        r"""Return :math:`x^\top H_c x` and :math:`\|H_c x\|^2`, finite.

        Raises:
            NonFiniteProduct: when they are not.
        """
        form = quadratic_form(x, self.hessian(x))
        if not all(map(math.isfinite, form)):
            raise NonFiniteProduct
        return form

    def signs(self, k: int) -> Tensor:
        """Return random signs, draw k, (p,)."""
        return self._streams.signs("signs", k, self.view.w)

    def gaussian(self, k: int) -> Tensor:
        """Return Gaussian noise, draw k, (p,)."""
        return self._streams.normal("check", k, self.view.w)

    def uniform(self, k: int) -> Tensor:
        """Return noise uniform on [-1, 1], draw k, (p,)."""
        return self._streams.uniform("check", k, self.view.w)

    def forms(self, n: int) -> list[tuple[float, float]]:
        r"""Return :math:`z^\top H_c z` and :math:`\|H_c z\|^2` for signs z, draws 0 to n - 1."""
        return self._forms("hessian", self.products, n, self.together)

    def gauss_newton_forms(self, n: int) -> list[tuple[float, float]]:
        r"""Return :math:`z^\top G_c z` and :math:`\|G_c z\|^2` for the same signs."""
        return self._forms("gauss_newton", one_by_one(self.gauss_newton), n)

    def _forms(self, matrix: str, products: Products, n: int, together: int = 1) -> list[tuple[float, float]]:
        # Each is made once for a surface. Rounding knows whether a product was made with others, so those that were
        # and those that were not are kept apart: values do not depend on what was asked for before.
        cached: dict[tuple[int, bool], tuple[float, float]] = self.view.memo(
            ("curvature.forms", matrix, *self._name), lambda: {}
        )
        wanted = [(k, k < n - n % together) for k in range(n)]
        missing = [draw for draw in wanted if draw not in cached]
        forms = starmap(
            quadratic_form, products(self._streams.draws("signs", "signs", [k for k, _ in missing], self.view.w))
        )
        cached.update(zip(missing, forms, strict=True))
        return [cached[draw] for draw in wanted]

    def run(self, k: int, products: int) -> Lanczos:
        """Return the Lanczos run from Gaussian start k; one that another measure began, if it can go so far."""
        runs: dict[int, Lanczos] = self.view.memo(("curvature.lanczos", *self._name), lambda: {})
        run = runs.get(k)
        if run is None or not (run.can_continue or run.exhausted or run.products >= products):
            run = runs[k] = Lanczos(self._streams.normal("start", k, self.view.w))
        return run

    def release_run(self, k: int) -> None:
        """Free the vectors of run k, unless it is the one that other measures may continue, and small."""
        runs: dict[int, Lanczos] = self.view.memo(("curvature.lanczos", *self._name), lambda: {})
        run = runs[k]
        if k > 0 or run.nbytes > KEPT:
            run.forget()


@contextmanager
def choices() -> Iterator[None]:
    """Say what can be done where an operation has no second derivative."""
    try:
        yield
    except Untracked:
        raise  # differences of gradients would be as wrong
    except Unsupported as error:
        raise Unsupported(f"{error}; {CHOICES}") from error


@torch.no_grad()
def evaluated(
    surface: LossSurface, spec: SharpnessSpec, rng: Streams, estimate: Callable[[Curvature], Estimate]
) -> Estimate:
    """Return what is estimated from the curvature of a surface, or that a product was not finite.

    Args:
        surface: the loss surface.
        spec: as of ``Curvature``.
        rng: the measure's noise.
        estimate: makes the estimate from products.
    """
    curvature = Curvature(surface, spec, rng)
    try:
        result = estimate(curvature)
    except NonFiniteProduct:
        result = Estimate.without_value(Status.NONFINITE, NONFINITE)
    return curvature.with_product_error(result)


def with_tolerance(
    value: float, stderr: float | None, converged: bool, extras: Mapping[str, Any], rtol: float
) -> Estimate:
    """Return an estimate that says whether its standard error is as small as was asked for."""
    if converged:
        return Estimate(value, stderr, extras=extras)
    reached = "unknown" if stderr is None else f"{stderr / abs(value):.2g}" if value else "infinite"
    message = f"the relative standard error is {reached}, not {rtol:g}: raise probes"
    return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)


def zero_hessian() -> Estimate:
    """Return the estimate that says that the Hessian is zero."""
    return Estimate.without_value(Status.UNSUPPORTED, ZERO)
