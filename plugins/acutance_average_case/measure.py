"""Average-case (adaptive) sharpness: the mean rise of the loss under random perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from acutance.measure import NORMS, Cost, Estimate, Measure, Need, SharpnessSpec, Traits
from acutance.spec import estimation, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class AverageCaseSpec(SharpnessSpec):
    """Settings of average-case sharpness."""

    rho: PositiveFloat
    """Radius: standard deviation of the Gaussian, or half width of the box, in the coordinates delta / c."""
    norm: Annotated[Literal["l2", "linf"], labelled(NORMS)] = "l2"
    """l2: Gaussian perturbations; linf: uniform perturbations of the box."""
    draws: Annotated[PositiveInt, estimation()] = 100
    """Number of perturbations per batch."""
    variance_reduction: Annotated[Literal["none", "linear", "antithetic"], estimation()] = "none"
    """linear: a control variate, the linear part of the rise, with fitted coefficient; antithetic: draws in pairs."""

    @model_validator(mode="after")
    def _consistent(self) -> AverageCaseSpec:
        if self.variance_reduction == "antithetic" and self.draws % 2:
            raise ValueError(f"draws: antithetic draws come in pairs, {self.draws} is odd")
        if self.variance_reduction == "linear" and self.draws < 3:
            raise ValueError(f"draws: a fitted control variate needs at least 3, got {self.draws}")
        return self


class AverageCase(Measure[AverageCaseSpec]):
    r"""Average-case sharpness of radius rho in units of c.

    .. math:: S_{avg}^\rho(w, c) = E_{\delta}\, L_S(w + \delta) - L_S(w)

    with :math:`\delta \sim N(0, \rho^2 \mathrm{diag}(c^2))` for ``norm: l2`` and :math:`\delta_i = \rho c_i U_i`,
    :math:`U_i` uniform on [-1, 1], for ``norm: linf`` (Andriushchenko et al. 2023, Eq. 1 and Tables 1-4). As
    :math:`\rho \to 0` it tends to :math:`\frac{\rho^2}{2} tr(\nabla^2 L \odot cc^\top)` (l2) and to a third of
    that (linf). Estimated with ``draws`` samples; ``stderr`` is their standard error.

    With ``variance_reduction="linear"`` the mean is taken of
    :math:`L(w + \delta) - L(w) - \beta \langle \nabla L, \delta \rangle`, whose last term has mean zero; beta is
    fitted to the draws, and costs one gradient for all radii. It pays at small radii. ``antithetic`` takes every
    noise with both signs, which cancels all odd terms and pays where they dominate.
    """

    name = "average_case"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"data"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="S_avg",
        label="{scaling} avg-case {norm}",
        reference="Andriushchenko et al. 2023, Eq. 1",
        bibtex=("andriushchenko2023modern", "kwon2021asam"),
    )

    def evaluate(self, surface: LossSurface, spec: AverageCaseSpec, rng: Streams) -> Estimate | float:
        """Return the mean rise over the draws."""
        return self.evaluate_many(surface, [spec], rng)[0]

    def evaluate_many(self, surface: LossSurface, specs: Sequence[AverageCaseSpec], rng: Streams) -> list[Estimate]:
        """Return all values from one sweep over the draws, sharing noise and forwards."""
        from acutance_average_case.estimate import average_rise

        return average_rise(surface, specs, rng)

    def needs(self, spec: AverageCaseSpec) -> frozenset[Need]:
        """Forward passes alone, so that a loss without a gradient will do; the control variate takes the gradient."""
        more: set[Need] = {"gradient"} if spec.variance_reduction == "linear" else set()
        return super().needs(spec) | more

    def passes(self, spec: AverageCaseSpec) -> Cost:
        """One forward a draw, and the clean one, with its gradient for the control variate."""
        return Cost(forwards=spec.draws + 1, backwards=1 if spec.variance_reduction == "linear" else 0)

    def passes_together(self, specs: Sequence[AverageCaseSpec]) -> Cost:
        """One forward a noise, sign and point (scaling and radius), whatever the loss transform, and the clean one.

        The clean gradients of the control variate are one a loss transform and set of free parameters.
        """
        visits: dict[tuple[str, str, str, float, int], int] = {}
        gradients = set()
        for spec in specs:
            signs = (1, -1) if spec.variance_reduction == "antithetic" else (1,)
            for sign in signs:
                point = (spec.parameters, spec.norm, spec.scaling, spec.rho, sign)
                visits[point] = max(visits.get(point, 0), spec.draws // len(signs))
            if spec.variance_reduction == "linear":
                gradients.add(spec.view)
        clean = max(len(gradients), 1)
        return Cost(forwards=sum(visits.values()) + clean, backwards=len(gradients))

    def shares(self, spec: AverageCaseSpec) -> Literal["", "logits", "gradient"]:
        """The clean logits, or the gradient there for the control variate."""
        return "gradient" if spec.variance_reduction == "linear" else "logits"

    def vectors(self, spec: AverageCaseSpec) -> int:
        """The noise and the perturbed weights; c, unless it is 1 or |w|; the control's gradient, and c times it.

        Noise of a million weights or more is not held where each draw serves a single point, on a CPU.

        A network so small that 64 points go in one pass (``surface.many_points``) holds 64 rows beside, 16 MiB at most.
        """
        return 2 + (spec.scaling not in ("none", "elementwise")) + _of_control(spec)

    def vectors_of_few(self, spec: AverageCaseSpec) -> int:
        """What ``vectors`` says and c, which is held of few weights whatever it is."""
        return 2 + (spec.scaling != "none") + _of_control(spec)


def _of_control(spec: AverageCaseSpec) -> int:
    """Return the vectors of the control variate: the gradient, and c times it."""
    return 0 if spec.variance_reduction != "linear" else 1 if spec.scaling == "none" else 2
