"""Whether models that are compared say the same, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from acutance.measure import Estimate, PoolMeasure, Traits
from acutance.peers import over_partners
from acutance_predictions.measure import SAME_FUNCTION, NoSettings

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.peers import Peer


class Disagreement(PoolMeasure[NoSettings]):
    r"""The share of points of which another model predicts another class, on average over the other models.

    .. math:: \frac{1}{M - 1} \sum_{j \ne m} \frac1n \sum_i \big[\hat y_m(x_i) \ne \hat y_j(x_i)\big]

    It is the error of models that are trained in the same way and calibrated together (Jiang et al. 2022); others may
    all make the same mistakes, and a good model disagrees with bad ones.
    """

    name = "disagreement"
    traits = Traits(
        level="pool", larger_means="more errors", better="smaller", needs={"peers", "unlabeled"},
        invariant_to=SAME_FUNCTION,
        symbol="Dis", label="disagreement with peers", estimates="error", reference="Jiang et al. 2022",
        bibtex=("jiang2022assessing",),
    )  # fmt: skip

    def evaluate_pool(self, peers: Sequence[Peer], spec: NoSettings, rng: Streams) -> list[Estimate]:
        """Return the mean over the other models of as many classes; a model whose outputs are not finite is none."""
        from acutance_predictions.pool_numerics import lost, pairs, predicted

        found = predicted([peer.logits for peer in peers], [peer.name for peer in peers])
        return lost(over_partners(1 - pairs(found), peers), found)

    def vectors(self, spec: NoSettings) -> int:
        """No vector of the size of the weights."""
        return 0
