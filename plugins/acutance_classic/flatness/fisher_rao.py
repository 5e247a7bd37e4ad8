"""The Fisher-Rao norm of the weights (Liang et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from acutance.measure import Cost, Estimate, Measure, Need, Traits
from acutance.spec import estimation, labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class FisherRaoSpec(PartSpec):
    """Settings of the Fisher-Rao norm."""

    labels: Annotated[Literal["given", "sampled"], labelled({"given": "", "sampled": "true "})] = "given"
    """given: the targets (empirical Fisher matrix); sampled: y from the model's own predictions, in expectation."""
    form: Annotated[Literal["exact", "homogeneous"], estimation()] = "exact"
    """exact: the quadratic form; homogeneous: from the logits alone, where the network is positively homogeneous."""


class FisherRao(Measure[FisherRaoSpec]):
    r"""Squared Fisher-Rao norm of the weights, a quadratic form of the Fisher matrix.

    .. math:: w^\top F w = E_i \langle w, g_i \rangle^2, \qquad
       \langle w, g_i \rangle = \frac{\partial \ell_i}{\partial f} \cdot J_i w

    with g_i the gradient of the loss of example i (Liang et al. 2019): exactly, from one product with the Jacobian of
    the logits and no gradient of a single example. With ``labels: sampled`` the expectation is over y drawn from the
    softmax, in closed form: the variance of J_i w under it. In a bias-free positively homogeneous network with n weight
    layers :math:`J w = n f`, and forwards alone will do: :math:`n^2 E (\sum_k p_k f_k - f_y)^2` for cross-entropy.
    ``form: homogeneous`` is that, and unsupported where f(a w) is not a^n f(w): public code applies it with biases,
    normalization and a fixed n. Another public "Fisher" measure is w'Hw, which is not this form.
    """

    name = "fisher_rao"
    traits = Traits(
        larger_means="larger norm", needs={"data", "hvp"}, symbol="‖w‖_fr²", label="{labels}Fisher-Rao norm",
        invariant_to={"rescaling", "head_mixing", "permutation", "translation"},
        reference="Liang et al. 2019, Eq. 1.2", bibtex=("liang2019fisher",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: FisherRaoSpec, rng: Streams) -> Estimate:
        """Return the mean of the squares."""
        from acutance_classic.flatness.fisher_rao_numerics import fisher_rao

        return fisher_rao(surface.restricted(spec.parameters), spec)

    def needs(self, spec: FisherRaoSpec) -> frozenset[Need]:
        """Products with the Jacobian, or forwards alone."""
        return frozenset({"data"} if spec.form == "homogeneous" else {"data", "hvp"})

    def passes(self, spec: FisherRaoSpec) -> Cost:
        """The logits, and one product through their linearization; or the logits at w and at a multiple of it."""
        return Cost(forwards=2, backwards=0 if spec.form == "homogeneous" else 2)

    def vectors(self, spec: FisherRaoSpec) -> int:
        """The weights as a direction, the moved weights."""
        return 2
