r"""Information criteria: what the scatter of the gradients, or the curvature alone, says of the generalization gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance.measure import Traits
from acutance_classic.information_measure import Criterion

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance_classic.information_numerics import Damped, Traces


class TakeuchiCriterion(Criterion):
    r"""Takeuchi's information criterion (TIC): the gap of an estimate by maximum likelihood, also of a wrong model.

    .. math:: \frac1N \mathrm{tr}\big[(H + \delta I)^{-1} C\big], \qquad C = \frac1n \sum_i g_i g_i^\top

    with the N examples that were trained on, ``surface.num_train``: the size of the study's split, ``num_train`` of
    ``acutance.measure``, ``--num-train``, or the number of points (Takeuchi 1976; Thomas et al. 2020). C is not
    centred: at a minimum the mean gradient is zero. Where the gradients lie in directions without curvature the value
    grows like 1/delta. By Lanczos quadrature from mixtures of the gradients with random signs, one pass and ``probes``
    times ``iterations`` products; ``dense`` is exact, ``diagonal`` divides :math:`C_{jj}` by :math:`G_{jj} + \delta`.
    """

    name = "tic"
    traits = Traits(
        level="dataset", larger_means="wider gap", needs={"hvp", "example_gradients"}, stochastic=True,
        invariant_to={"permutation", "translation"}, symbol="TIC", label="TIC",
        reference="Takeuchi 1976; Thomas et al. 2020", bibtex=("thomas2020interplay",),
    )  # fmt: skip
    gradients = True

    def traces(self, damped: Damped, rng: Streams) -> Traces:
        """Return the estimates of the trace of C over the damped curvature."""
        from acutance_classic import information_numerics as numerics

        view, spec = damped.view, damped.spec
        if spec.approximation == "lanczos":
            starts = numerics.mixtures(view, rng, spec.probes)
            return damped.quadratures(starts, lambda values: 1 / (values + spec.damping))
        if spec.approximation == "dense":
            values, basis = damped.eigen()
            moments = numerics.second_moments(view, basis)
        else:
            values, moments = numerics.gauss_newton_diagonal(view, rng, spec.draws), numerics.second_moments(view)
            values = damped.checked(values)
        return numerics.Traces([float((moments / (values + spec.damping)).sum())], [])


class SoftRankCriterion(Criterion):
    r"""Soft rank of the curvature over the number of training examples: TIC of a calibrated model.

    .. math:: \frac1N \mathrm{tr}\big[H (H + \delta I)^{-1}\big]

    (Shoham, Mor-Yosef & Avron 2025): where the model is calibrated the scatter C of the gradients is their Fisher
    matrix, which is H, so that TIC becomes the soft rank. No gradient of a single example is needed. The sum itself is
    ``hessian_effective_dimension`` where no eigenvalue is negative.
    """

    name = "soft_rank_tic"
    traits = Traits(
        level="dataset", larger_means="wider gap", needs={"hvp"}, stochastic=True,
        invariant_to={"permutation", "translation"}, symbol="rank_δ/N", label="soft-rank TIC",
        reference="Shoham, Mor-Yosef & Avron 2025", bibtex=("shoham2025flatness",),
    )  # fmt: skip

    def traces(self, damped: Damped, rng: Streams) -> Traces:
        """Return the estimates of the soft rank."""
        from acutance_classic import information_numerics as numerics

        view, spec = damped.view, damped.spec
        if spec.approximation == "lanczos":
            starts = numerics.directions(view, rng, spec.probes)
            return damped.quadratures(starts, lambda values: values / (values + spec.damping))
        if spec.approximation == "dense":
            values, _ = damped.eigen()
        else:
            values = damped.checked(numerics.gauss_newton_diagonal(view, rng, spec.draws))
        return numerics.Traces([float((values / (values + spec.damping)).sum())], [])
