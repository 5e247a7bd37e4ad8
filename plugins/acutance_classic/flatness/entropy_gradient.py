"""The gradient of local entropy, by Langevin dynamics (Chaudhari et al. 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import estimation, labelled
from acutance_classic.flatness.views import ViewSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class EntropyGradientSpec(ViewSpec):
    """Settings of the gradient of local entropy."""

    gamma: Annotated[PositiveFloat, labelled(adds=", γ = {gamma}", always=True)] = 1e4
    """Stiffness of the spring to w."""
    steps: Annotated[int, Field(ge=20), estimation()] = 100
    """Langevin steps, half of them in each of two chains; a fifth of each is left out."""
    step: Annotated[float, Field(gt=0, lt=2), estimation()] = 0.1
    """Size of a step, in units of 1/gamma; where n L is steeper than the spring, take a smaller one."""


class GradientOfLocalEntropy(Measure[EntropyGradientSpec]):
    r"""Norm of the gradient of local entropy: how far the good weights around w are centred elsewhere.

    .. math:: \|\nabla_w F(w, \gamma)\| = \gamma\, \|w - \langle w' \rangle\| = n\, \|\langle \nabla L(w') \rangle\|

    with the mean over :math:`e^{-n L(w') - \frac{\gamma}{2}\|w - w'\|^2}` (Chaudhari et al. 2017, Eq. 4). The two are
    equal by partial integration; the second is estimated, since the noise of Langevin dynamics adds
    :math:`\sqrt{\gamma d / steps}` to the first, more than the value itself in networks. Two chains make the means
    independent: the value is the root of their inner product, which has no such bias, and not converged where their
    cosine, ``extras["agreement"]``, is below one half.
    """

    name = "gradient_of_local_entropy"
    traits = Traits(
        level="dataset", needs={"data", "gradient"}, stochastic=True, invariant_to={"translation"},
        symbol="‖∇F‖", label="gradient of local entropy", reference="Chaudhari et al. 2017, Eq. 4",
        bibtex=("chaudhari2017entropy",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: EntropyGradientSpec, rng: Streams) -> Estimate:
        """Return the norm."""
        from acutance_classic.flatness.langevin import entropy_gradient

        return entropy_gradient(surface, spec, rng)

    def passes(self, spec: EntropyGradientSpec) -> Cost:
        """A gradient a step."""
        return Cost(forwards=2 * (spec.steps // 2), backwards=2 * (spec.steps // 2))

    def vectors(self, spec: EntropyGradientSpec) -> int:
        """Two means, the position, the moved weights, the gradient and the noise."""
        return 6
