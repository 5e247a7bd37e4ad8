r"""The local learning coefficient of singular learning theory, by Langevin dynamics around the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Status, Traits
from acutance.spec import estimation, labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

PRODUCTS = 5  # gradients of the power iteration that chooses a step: the largest curvature is needed to a tenth or two
LEFT = "the loss of a chain is not finite: lower step, or raise localization"


class LearningCoefficientSpec(PartSpec):
    """Settings of the local learning coefficient."""

    localization: Annotated[NonNegativeFloat, labelled(adds=", localization {localization}")] = 100.0
    """gamma: how strongly the chains are drawn back to the weights; it lowers the value where it is not small."""
    beta: Annotated[PositiveFloat | None, labelled(adds=", beta {beta}")] = None
    """Inverse temperature; 1/log n, n the number of points, by default."""
    step: Annotated[PositiveFloat | None, estimation()] = None
    """epsilon, the step of the chains; by default 0.2 / (n beta h + gamma), h the largest curvature at the weights."""
    chains: Annotated[PositiveInt, estimation()] = 4
    """Independent chains, of whose values the standard error is."""
    burn_in: Annotated[NonNegativeInt, estimation()] = 100
    """Steps of each chain before its losses count."""
    draws: Annotated[PositiveInt, estimation()] = 100
    """Steps of each chain whose losses count."""

    @property
    def steps(self) -> int:
        """Steps of each chain."""
        return self.burn_in + self.draws


class LocalLearningCoefficient(Measure[LearningCoefficientSpec]):
    r"""Local learning coefficient (LLC), half of the number of directions that matter as the data see it.

    .. math:: \hat\lambda = n \beta \big(E_w\, L(w) - L(w^*)\big), \qquad
       w \sim \exp\big(-n \beta L(w) - \tfrac\gamma2 \|w - w^*\|^2\big), \quad \beta = \frac{1}{\log n}

    (Lau et al. 2025; Watanabe 2013), d/2 at a regular minimum of d parameters, less at a singular one. The chains begin
    at the weights and make :math:`w \leftarrow w - \tfrac\epsilon2 (n\beta \nabla L + \gamma (w - w^*)) +
    \sqrt\epsilon\, \xi` with the gradient of all n points, so that batches add no noise of their own. The value is
    ``not_converged``, with advice, where it is negative (no minimum), above p/2, which no coefficient exceeds (a step
    too large), where the chains are too short to come to rest under the localization alone,
    :math:`\epsilon \gamma \cdot \mathrm{steps} < 1`, or where the loss has a trend over the draws. ``extras`` has the
    step, both halves of the draws and the trace of the loss.
    """

    name, version = "local_learning_coefficient", 2
    traits = Traits(
        level="dataset", larger_means="more complex", needs={"gradient"}, stochastic=True,
        invariant_to={"permutation"}, symbol="λ̂", label="local learning coefficient",
        curves={"trace": ("step", "mean loss of the chains")},
        reference="Lau et al. 2025; Watanabe 2013",
        bibtex=("lau2025local", "watanabe2013widely", "welling2011bayesian"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: LearningCoefficientSpec, rng: Streams) -> Estimate:
        """Return the coefficient, with its error over the chains."""
        from acutance.numerics.traces import mean_and_error
        from acutance_classic.langevin import chains, stable_step, trace_of, trends

        if surface.n < 2:
            raise Unsupported("the temperature is log n, which needs two points at least")
        view = surface.restricted(spec.parameters)
        n_beta = surface.n * (1 / math.log(surface.n) if spec.beta is None else spec.beta)
        origin = float(view.clean_gradient().loss)
        step = spec.step or stable_step(view, n_beta, spec.localization, rng)
        losses = chains(view, spec, step, n_beta, rng)
        if not (math.isfinite(origin) and bool(losses.isfinite().all())):
            return Estimate.without_value(Status.NONFINITE, LEFT)
        rises = n_beta * (losses[:, spec.burn_in :] - origin)
        value, stderr = mean_and_error(rises.mean(1).tolist())
        half = max(spec.draws // 2, 1)
        first, second = rises[:, :half].mean(1), rises[:, -half:].mean(1)
        drift, error = mean_and_error(trends(rises))
        extras = {
            "step": step,
            "first_half": float(first.mean()), "second_half": float(second.mean()), "n_beta": n_beta,
            "clean_loss": origin, "trace": trace_of(losses),
        }  # fmt: skip
        moving = abs(drift) > max(4 * (error or 0.0), 0.2 * abs(value))
        felt = step * spec.localization * spec.steps
        message = doubt(value, stderr or 0.0, view.w.numel() / 2, felt, moving)
        return Estimate(value, stderr, Status.NOT_CONVERGED if message else Status.OK, message, extras=extras)

    def passes(self, spec: LearningCoefficientSpec) -> Cost:
        """The gradient at the weights, those that choose the step, and one at every step of a chain but the last."""
        before = 1 + (PRODUCTS if spec.step is None else 0)
        return Cost(forwards=before + spec.chains * spec.steps, backwards=before + spec.chains * (spec.steps - 1))

    def vectors(self, spec: LearningCoefficientSpec) -> int:
        """The point, its distance from the weights, the noise, the gradient and the one at the weights."""
        return 6


def doubt(value: float, stderr: float, most: float, felt: float, moving: bool) -> str:
    """Return why a value is not to be trusted, and what to do; nothing where there is no reason.

    Args:
        value: the estimate.
        stderr: its standard error.
        most: p/2.
        felt: steps in units of the time that the localization takes.
        moving: whether the loss has a trend over the draws.
    """
    if value < 0:
        return "negative: the chains found smaller losses than that of the weights, no minimum: train them further"
    if value > most + 4 * stderr:
        return f"above p/2 = {most:g}, the most that a learning coefficient can be: lower step"
    if 0 < felt < 1:
        return (
            f"the chains have not felt the localization, step x localization x steps is {felt:.2g}, so that they may "
            "still be near the weights and the value too low: raise burn_in and draws, or step"
        )
    if moving:
        return "the loss has a trend over the draws: raise burn_in, or lower step where the loss grows"
    return ""
