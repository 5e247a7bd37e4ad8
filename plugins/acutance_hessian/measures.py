r"""Curvature: trace, largest eigenvalue and density of the rescaled Hessian :math:`H_c = H \odot cc^\top`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from acutance.measure import Cost, Estimate, Need, Traits
from acutance.spec import estimation
from acutance_hessian.spec import CHECK_PAIRS, CHECK_STEPS, CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class TraceSpec(ProductSpec):
    """Settings of the trace of the Hessian."""

    estimator: Annotated[Literal["hutchinson", "hutch++", "xtrace"], estimation()] = "hutchinson"
    """hutchinson: the mean of z^T H z; hutch++, xtrace: exact on what a third or half of the probes span."""
    probes: Annotated[PositiveInt, estimation()] = 100
    """Products with the Hessian for each batch, at most, whatever the estimator."""
    rtol: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Relative standard error at which to stop; 0: use all probes."""

    check_rho: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Radius at which Proposition 2 is held against the measured sharpness, in the extras; 0: not checked."""

    @model_validator(mode="after")
    def _enough(self) -> TraceSpec:
        least = {"hutchinson": 1, "hutch++": 3, "xtrace": 4}[self.estimator]
        if self.probes < least:
            raise ValueError(f"probes: {self.estimator} needs at least {least}, got {self.probes}")
        return self


class HessianTrace(CurvatureMeasure[TraceSpec]):
    r"""Trace of the rescaled Hessian.

    .. math:: tr(H_c) = \sum_i c_i^2\, \partial^2 L_S / \partial w_i^2, \qquad H_c = \nabla^2 L_S(w) \odot cc^\top

    the limit of average-case sharpness times :math:`2 / \rho^2` for a small radius (Andriushchenko et al. 2023,
    Eq. 2 and Proposition 2). It is linear in the loss: the mean over m-batches is the trace of the mean Hessian.

    Estimated from products with random signs. ``hutchinson`` holds 3 vectors besides c and its standard error is that
    of a mean of independent numbers. ``hutch++`` and ``xtrace`` are better where few eigenvalues make up most of
    the trace, and hold a third or half as many vectors as there are probes. The standard error of ``hutch++`` is that
    of the last third of its probes, which are split from the others; that of ``xtrace`` accounts for what its
    estimates have in common.
    """

    name = "hessian_trace"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"hvp"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="tr H",
        label="{scaling} Hessian trace",
        reference="Andriushchenko et al. 2023, Eq. 2; Hutchinson 1990; Meyer et al. 2021; Epperly et al. 2024",
        bibtex=(
            "andriushchenko2023modern", "hutchinson1990stochastic", "meyer2021hutch", "epperly2024xtrace",
        ),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: TraceSpec, rng: Streams) -> Estimate | float:
        """Return the estimated trace."""
        from acutance_hessian.estimate import trace

        return trace(surface, spec, rng)

    def needs(self, spec: TraceSpec) -> frozenset[Need]:
        """Losses at other points too, where Proposition 2 is checked."""
        return super().needs(spec) | ({"data"} if spec.check_rho else set())

    def passes(self, spec: TraceSpec) -> Cost:
        """One product a probe, at most, through one graph of the gradient."""
        products = spec.probes - spec.probes % 2 if spec.estimator == "xtrace" else spec.probes
        check = 4 * CHECK_PAIRS + 1 if spec.check_rho else 0
        return spec.products(products) + Cost(forwards=check)

    def vectors(self, spec: TraceSpec) -> int:
        """The probe, the product and its parts; c, and the probe times it; those that Hutch++ and XTrace keep."""
        kept = {"hutchinson": 1, "hutch++": 1 + spec.probes // 3, "xtrace": spec.probes // 2}[spec.estimator]
        return kept + spec.product_vectors()


class TopEigenvalueSpec(ProductSpec):
    """Settings of the largest eigenvalue of the Hessian."""

    tol: Annotated[PositiveFloat, estimation()] = 1e-4
    """Relative tolerance: the run stops where its residual bound is below it."""
    max_iterations: Annotated[PositiveInt, estimation()] = 100
    """Lanczos iterations, one product with the Hessian and one kept vector each, at most."""
    k: PositiveInt = 1
    """How many of the largest eigenvalues to find; the value is the first, all are in the extras (eigenvalue_1 ...)."""

    check_rho: Annotated[NonNegativeFloat, estimation()] = 0.0
    """Radius at which Proposition 1 is held against the measured sharpness, in the extras; 0: not checked."""

    @model_validator(mode="after")
    def _enough(self) -> TopEigenvalueSpec:
        if self.max_iterations < self.k:
            raise ValueError(f"max_iterations: {self.k} eigenvalues need as many iterations, got {self.max_iterations}")
        return self


class HessianTopEigenvalue(CurvatureMeasure[TopEigenvalueSpec]):
    r"""Largest eigenvalue of the rescaled Hessian, algebraically.

    .. math:: \lambda_{max}(H_c), \qquad H_c = \nabla^2 L_S(w) \odot cc^\top

    the limit of worst-case sharpness times :math:`2 / \rho^2` at a critical point, in the l2 ball (Andriushchenko et
    al. 2023, Eq. 3 and Proposition 1), where it is clipped at 0. A large negative eigenvalue is not mistaken for it.

    By Lanczos with full reorthogonalisation. It stops when
    :math:`4 \min(r, r^2 / \mathrm{gap}) \le tol\,|\lambda|`, with r the residual of the Ritz pair and the gap that to
    its neighbour; this bound is ``extras["bound"]``. The value is the mean of :math:`\lambda_{max}` over the m-batches,
    which is at least, and as a rule well above, :math:`\lambda_{max}` of the mean Hessian; ``level: dataset`` gives
    that one.
    """

    name = "hessian_top_eigenvalue"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"hvp"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="lambda_max",
        label="{scaling} Hessian λmax",
        reference="Andriushchenko et al. 2023, Eq. 3; Lanczos 1950",
        bibtex=("andriushchenko2023modern", "lanczos1950iteration"),
    )

    def evaluate(self, surface: LossSurface, spec: TopEigenvalueSpec, rng: Streams) -> Estimate | float:
        """Return the largest eigenvalue, with its bound."""
        from acutance_hessian.estimate import top_eigenvalue

        return top_eigenvalue(surface, spec, rng)

    def needs(self, spec: TopEigenvalueSpec) -> frozenset[Need]:
        """Gradients too, where Proposition 1 is checked."""
        return super().needs(spec) | ({"gradient"} if spec.check_rho else set())

    def passes(self, spec: TopEigenvalueSpec) -> Cost:
        """One product an iteration, at most, through one graph of the gradient."""
        check = 2 * CHECK_STEPS + 1 if spec.check_rho else 0
        return spec.products(spec.max_iterations) + Cost(forwards=check + 2 * bool(check), backwards=check)

    def vectors(self, spec: TopEigenvalueSpec) -> int:
        """One for each iteration, the product and its parts; c, and the vector times it."""
        return spec.max_iterations + spec.product_vectors()


class DensitySpec(ProductSpec):
    """Settings of the spectral density of the Hessian."""

    probes: Annotated[PositiveInt, estimation()] = 4
    """Random start vectors."""
    iterations: Annotated[PositiveInt, estimation()] = 400
    """Lanczos iterations, one product with the Hessian and one kept vector each, from each start."""
    tol: Annotated[NonNegativeFloat, estimation()] = 0.05
    """Half the distance of the bounds of the share at which it counts as resolved."""


class HessianDensity(CurvatureMeasure[DensitySpec]):
    r"""Spectral density of the rescaled Hessian; the value is the share of its eigenvalues that are negative.

    .. math:: \frac1p \sum_i \delta(\lambda - \lambda_i(H_c)) \approx
       \frac1q \sum_{k=1}^q \sum_j s_{kj}^2\, \delta(\lambda - \theta_{kj})

    by stochastic Lanczos quadrature (Ghorbani et al. 2019): :math:`\theta_{kj}` are the Ritz values of a run from
    random start k, :math:`s_{kj}` the first components of their vectors. The curve is in ``extras["density"]``: the
    mass ``y`` in bins around ``x``, ten a decade on both sides of zero, the same for all models and batches. An
    eigenvalue counts as negative below :math:`-10^{-5} \max|\lambda|`, which is what single precision can tell from
    zero. ``stderr`` is that over the probes. Where a run has fewer iterations than there are different eigenvalues,
    a node stands for a cluster of them: the density near zero is then smoothed, and so is its sign. How much so is
    told: ``extras["low"]`` and ``["high"]`` are the least and the greatest share below that cut that the runs allow
    (Chebyshev, Markov and Stieltjes; Golub & Meurant 2010), ``["value_half"]`` is the value with half of the
    iterations, ``["resolution"]`` the distance of the nodes around zero, in units of :math:`\max|\lambda|`. Where low
    and high are more than two ``tol`` apart the share is not resolved, and the value is ``not_converged``. The default
    iterations resolve networks of a thousand parameters; of much larger ones the bulk's sign cannot be told.
    """

    name, version = "hessian_density", 2
    traits = Traits(
        level="batch",
        larger_means="more negative curvature",
        needs={"hvp"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="negative mass",
        label="{scaling} Hessian negative share",
        curves={"density": ("eigenvalue", "share of eigenvalues in the bin")},
        reference="Ghorbani, Krishnan & Xiao 2019; Golub & Welsch 1969",
        bibtex=("ghorbani2019investigation",),
    )

    def evaluate(self, surface: LossSurface, spec: DensitySpec, rng: Streams) -> Estimate | float:
        """Return the share of negative eigenvalues, with the density in the extras."""
        from acutance_hessian.estimate import density

        return density(surface, spec, rng)

    def passes(self, spec: DensitySpec) -> Cost:
        """One product an iteration from each start, through one graph of the gradient."""
        return spec.products(spec.probes * spec.iterations)

    def vectors(self, spec: DensitySpec) -> int:
        """One for each iteration, the product and its parts; c, and the vector times it."""
        return spec.iterations + spec.product_vectors()
