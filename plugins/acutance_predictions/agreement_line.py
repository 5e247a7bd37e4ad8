"""The error of each model from how the agreement of pairs falls from validation points to others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.measure import Cost, Estimate, PoolMeasure, Traits
from acutance.spec import Spec, labelled
from acutance_predictions.measure import SAME_FUNCTION

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.peers import Peer


class LineSpec(Spec):
    """Settings of agreement on the line."""

    variant: Annotated[Literal["single", "pairs"], labelled(adds=", {variant}")] = "single"
    """single: the line maps each accuracy (ALine-S); pairs: accuracies that fit all pairs best (ALine-D)."""
    least_r2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Squared correlation of the line over pairs below which there is no value."""


class AgreementOnTheLine(PoolMeasure[LineSpec]):
    r"""The error that the line through the agreements of all pairs of models lets expect.

    .. math:: \Phi^{-1}(A_{jl}) \approx a\, \Phi^{-1}(A^V_{jl}) + b, \quad
              1 - \Phi\big(a\, \Phi^{-1}(\mathrm{acc}^V_m) + b\big)

    with A the share of points of which models j and l predict the same class, and a V for the validation points
    (Baek et al. 2022). With ``pairs`` the accuracies are the least-squares solution of, for all pairs,

    .. math:: \tfrac12 (u_j + u_l) = \Phi^{-1}(A_{jl})
              + a \big(\tfrac12 (v_j + v_l) - \Phi^{-1}(A^V_{jl})\big),

    :math:`v = \Phi^{-1}(\mathrm{acc}^V)`, the error :math:`1 - \Phi(u_m)`. Accuracy follows the line where agreement
    does; where the agreements lie on none, nothing is said. Pairs that always or never agree have no probit: they are
    left out. Three models at least, and three pairs of different agreement.
    """

    name, version = "agreement_on_the_line", 2  # 1 took points that are measured for validation
    traits = Traits(
        level="pool", larger_means="more errors", better="smaller", needs={"peers", "unlabeled", "validation"},
        invariant_to=SAME_FUNCTION, symbol="AoL", label="error by agreement on the line", estimates="error",
        reference="Baek et al. 2022", bibtex=("baek2022agreement",),
    )  # fmt: skip

    def evaluate_pool(self, peers: Sequence[Peer], spec: LineSpec, rng: Streams) -> list[Estimate]:
        """Return the estimated error of each model, with the line and its validation error in the extras.

        Models of as many classes have a line of their own.
        """
        from acutance_predictions.agreement_line_numerics import estimates_of_group
        from acutance_predictions.pool_numerics import predicted

        points = predicted([peer.logits for peer in peers], [peer.name for peer in peers])
        found = dict(points.without)
        for group in points.groups:
            if group[0] not in found:
                found |= zip(
                    group, estimates_of_group([peers[i] for i in group], points.classes[group], spec), strict=True
                )
        return [found[i] for i in range(len(peers))]

    def passes(self, spec: LineSpec) -> Cost:
        """The outputs on the points, and on as many validation points."""
        return Cost(forwards=2)

    def vectors(self, spec: LineSpec) -> int:
        """No vector of the size of the weights."""
        return 0
