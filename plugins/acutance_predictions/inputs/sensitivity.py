r"""Derivatives by the inputs: of the loss, and of the logits, :math:`J(x) = \partial f / \partial x`, (K, D)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field

from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec, estimation, labelled
from acutance_predictions.measure import SAME_FUNCTION, NoSettings

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class InputGradientNorm(Measure[NoSettings]):
    r"""Mean norm of the gradient of the loss by the input.

    .. math:: \frac1n \sum_i \big\| \nabla_x \ell(f(x_i), y_i) \big\|_2

    (what Drucker and Le Cun 1992 penalize). It is small where the loss is.
    """

    name = "input_gradient_norm"
    traits = Traits(
        level="dataset", larger_means="more sensitive", needs={"data", "input_gradient"},
        invariant_to=SAME_FUNCTION, symbol="‖∇ₓℓ‖", label="input-gradient norm", reference="Drucker & Le Cun 1992",
        bibtex=("drucker1992improving",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: NoSettings, rng: Streams) -> float:
        """Return the mean."""
        from acutance_predictions.inputs.derivatives import squares

        return float(squares(surface.input_gradient(), surface.n).sqrt().mean())

    def passes(self, spec: NoSettings) -> Cost:
        """A pass with its derivative."""
        return Cost(forwards=1, backwards=1)

    def vectors(self, spec: NoSettings) -> int:
        """No vector of the size of the weights."""
        return 0


class ProbesSpec(Spec):
    """How the square of the Jacobian is estimated."""

    probes: Annotated[int, Field(ge=1), estimation()] = 10
    """Passes: random combinations of the logits; each logit by itself, exactly, where there are no more of them."""
    signs: Annotated[bool, estimation()] = False
    """Whether to take random combinations also where there are no more logits than probes."""


ProbesSpecT = TypeVar("ProbesSpecT", bound=ProbesSpec)


class JacobianMeasure(Measure[ProbesSpecT]):
    """A function of the squared Frobenius norms of the Jacobians of the points."""

    def passes(self, spec: ProbesSpecT) -> Cost:
        """The outputs, which say how many classes there are, and a pass with its derivative a probe, K at most."""
        return Cost(forwards=spec.probes + 1, backwards=spec.probes)

    def shares(self, spec: ProbesSpecT) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"

    def vectors(self, spec: ProbesSpecT) -> int:
        """No vector of the size of the weights."""
        return 0


class JacobianNormSpec(ProbesSpec):
    """Of what, and how it is estimated."""

    of: Annotated[Literal["probabilities", "logits"], labelled({"logits": " of logits"}, adds="{of}")] = "probabilities"
    """probabilities: those of the classes, as in the source; logits."""


class JacobianNorm(JacobianMeasure[JacobianNormSpec]):
    r"""Mean Frobenius norm of the Jacobian of the probabilities by the input.

    .. math:: \frac1n \sum_i \big\| J_p(x_i) \big\|_F, \quad J_p = (\mathrm{diag}(p) - p p^\top) J

    (Novak et al. 2018). With fewer probes than classes the squared norm of each point is estimated by random signs,
    :math:`\|J\|_F^2 = E_u \|J^\top u\|^2`, so its root is a little too small.
    """

    name = "jacobian_norm"
    traits = Traits(
        level="dataset", larger_means="more sensitive", needs={"unlabeled", "input_gradient"}, stochastic=True,
        invariant_to=SAME_FUNCTION, symbol="‖J‖", label="Jacobian norm{of}", reference="Novak et al. 2018",
        bibtex=("novak2018sensitivity", "hutchinson1990stochastic"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: JacobianNormSpec, rng: Streams) -> Estimate:
        """Return the mean."""
        from acutance_predictions.inputs.derivatives import jacobian_squares

        samples = jacobian_squares(surface, spec.probes, rng, spec.signs, spec.of == "probabilities")
        return Estimate(float(samples.sum(0).sqrt().mean()))


class GeometricComplexity(JacobianMeasure[ProbesSpec]):
    r"""Mean squared Frobenius norm of the Jacobian of the logits by the input.

    .. math:: \frac1n \sum_i \big\| J(x_i) \big\|_F^2

    (Dherin et al. 2022): the discrete Dirichlet energy. Unbiased with fewer probes than classes, by random signs.
    """

    name = "geometric_complexity"
    traits = Traits(
        level="dataset", larger_means="more complex", needs={"unlabeled", "input_gradient"}, stochastic=True,
        invariant_to=SAME_FUNCTION, symbol="GC", label="geometric complexity",
        reference="Dherin et al. 2022", bibtex=("dherin2022why", "hutchinson1990stochastic"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: ProbesSpec, rng: Streams) -> Estimate:
        """Return the mean, with its error over the probes where these are random."""
        from acutance_predictions.inputs.derivatives import jacobian_squares

        samples = jacobian_squares(surface, spec.probes, rng, spec.signs)
        if (len(samples) == surface.clean_logits().shape[1] and not spec.signs) or len(samples) < 2:
            return Estimate(float(samples.sum(0).mean()))
        each = samples.mean(1) * len(samples)
        return Estimate(float(each.mean()), float(each.std() / len(each) ** 0.5))
