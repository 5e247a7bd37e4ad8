r"""How much the loss rises at the end of one step uphill, at the worst corner of a small box, and how far a rise is.

Sharpness-aware minimization (Foret et al. 2021; Kwon et al. 2021), the sharpness of Keskar et al. (2017), the flatness
of Bisla et al. (2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from acutance.measure import Cost, Estimate, SharpnessSpec, Traits
from acutance.spec import estimation, labelled
from acutance_classic.flatness.crossing import narrowings
from acutance_classic.flatness.views import GradientMeasure, ViewSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class SamSpec(SharpnessSpec):
    """Settings of one-step sharpness."""

    rho: PositiveFloat
    """Length of the step, in the coordinates delta / c."""
    scaling: Annotated[str, labelled({"none": "SAM", "elementwise": "ASAM"})] = "none"
    """The vector c: none (1: SAM), elementwise (|w|: ASAM), elementwise_eta (as ASAM's code), filter, layer."""


class SamSharpness(GradientMeasure[SamSpec]):
    r"""Rise of the loss after the ascent step of sharpness-aware minimization.

    .. math:: L_S\Big(w + \rho \frac{c^2 \odot g}{\|c \odot g\|}\Big) - L_S(w), \qquad g = \nabla L_S(w)

    With c = 1 the step of SAM (Foret et al. 2021), with c = |w| that of ASAM (Kwon et al. 2021): both are optimizers in
    public, with no code that measures. A lower bound of ``worst_case`` in the same l2 ball, near it for small rho only.
    """

    name = "sam_sharpness"
    traits = Traits(
        needs={"data", "gradient"}, invariant_to={"permutation", "translation"}, symbol="S_SAM",
        label="{scaling} one-step sharpness", reference="Foret et al. 2021; Kwon et al. 2021",
        bibtex=("foret2021sharpness", "kwon2021asam"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: SamSpec, rng: Streams) -> Estimate:
        """Return the rise."""
        from acutance_classic.flatness.one_step_numerics import one_step_rise

        return one_step_rise(surface, spec)

    def passes(self, spec: SamSpec) -> Cost:
        """The gradient, and the loss where it leads."""
        return Cost(forwards=2, backwards=1)

    def vectors(self, spec: SamSpec) -> int:
        """The gradient, the step and the moved weights; c."""
        return 3 + (spec.scaling != "none")


class KeskarSpec(ViewSpec):
    """Settings of Keskar's sharpness."""

    eps: Annotated[PositiveFloat, labelled(adds=", ε = {eps}")] = 1e-3
    """Half width of the box, in units of |(A⁺w)_i| + 1."""
    subspace: Annotated[NonNegativeInt, labelled(adds=", {subspace} random directions")] = 0
    """Dimension k of a random subspace to search; 0 for all weights, A = I."""
    steps: Annotated[PositiveInt, estimation()] = 20
    """Iterations of Auto-PGD."""


class KeskarSharpness(GradientMeasure[KeskarSpec]):
    r"""Largest relative rise of the loss in a small box, in percent.

    .. math:: 100\, \frac{\max_{z \in C_\epsilon} f(w + A z) - f(w)}{1 + f(w)}, \qquad
       C_\epsilon = \{z : |z_i| \le \epsilon\, (|(A^+ w)_i| + 1)\}

    (Keskar et al. 2017, Metric 2.1) with A = I, or k Gaussian columns of length one. The authors never published their
    code. The maximum is sought by Auto-PGD, from the better of a corner (the one the gradient points at) and a random
    point, where they made ten L-BFGS-B iterations. Because of the "+ 1" the box is not that of adaptive sharpness.
    """

    name = "keskar_sharpness"
    traits = Traits(
        needs={"data", "gradient"}, stochastic=True, invariant_to={"permutation"}, symbol="φ_ε",
        label="Keskar sharpness", reference="Keskar et al. 2017, Metric 2.1", bibtex=("keskar2017large",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: KeskarSpec, rng: Streams) -> Estimate:
        """Return the largest rise found."""
        from acutance_classic.flatness.one_step_numerics import box_sharpness

        return box_sharpness(surface, spec, rng)

    def passes(self, spec: KeskarSpec) -> Cost:
        """The gradient, the loss at both starts, a gradient a step and the last loss."""
        return Cost(forwards=4 + spec.steps, backwards=1 + spec.steps)

    def vectors(self, spec: KeskarSpec) -> int:
        """As Auto-PGD in the whole space; with a subspace its directions, and what moves the weights."""
        return 6 if spec.subspace == 0 else 3 + spec.subspace


class EpsFlatnessSpec(ViewSpec):
    """Settings of epsilon-flatness."""

    eps: Annotated[PositiveFloat, labelled(adds=", ε = {eps}")] = 0.1
    """The rise of the loss to reach."""
    rtol: Annotated[PositiveFloat, estimation()] = 1e-3
    """Relative width of the last bracket of the search."""


class EpsFlatness(GradientMeasure[EpsFlatnessSpec]):
    r"""Inverse distance along the gradient at which the loss has risen by epsilon.

    .. math:: \frac{1}{\|t\, g\|}, \qquad L_S(w + t g) - L_S(w) = \epsilon, \quad t > 0

    (Bisla et al. 2022, the eps-flatness of their code). One direction only; unsupported at a critical point, and where
    the loss stays below the rise however far one goes.
    """

    name, version = "eps_flatness", 2  # 1 narrowed by bisection: within rtol the same
    traits = Traits(
        needs={"data", "gradient"}, invariant_to={"permutation", "translation"}, symbol="1/‖tg‖",
        label="ε-flatness", reference="Bisla et al. 2022", bibtex=("bisla2022lowpass",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: EpsFlatnessSpec, rng: Streams) -> Estimate:
        """Return the inverse distance."""
        from acutance_classic.flatness.one_step_numerics import inverse_distance

        return inverse_distance(surface, spec)

    def passes(self, spec: EpsFlatnessSpec) -> Cost:
        """The gradient; two losses until the rise is bracketed, and those that narrow the bracket."""
        return Cost(forwards=2 + narrowings(spec.rtol), backwards=1)
