"""How far the loss rises on the straight line between the weights of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.measure import Cost, Estimate, PoolMeasure, Status, Traits
from acutance.peers import over_partners
from acutance.spec import Spec, estimation, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.peers import Peer

ALONE = (
    "no other model has a segment with this one: that takes parameters and buffers of the same names and shapes, the "
    "same points as the model sees them, the same function of both, and finite outputs of both"
)


class BarrierSpec(Spec):
    """Settings of the barrier."""

    of: Annotated[Literal["loss", "error"], labelled()] = "loss"
    """What is measured on the segment: the mean loss, or the classification error."""
    grid: Annotated[int, Field(ge=3, le=1001), estimation()] = 11
    """Equally spaced points of the segment, its two ends among them; odd ones have its middle."""
    buffers: Annotated[Literal["interpolated", "recalibrated"], labelled(adds=", batch norm {buffers}")] = (
        "interpolated"
    )
    """Running statistics of batch normalization on the way: interpolated: as the weights are; recalibrated: those of
    the points there, at both ends too."""
    alignment: Annotated[Literal["none", "permutation"], labelled(adds=", neurons matched")] = "none"
    """Order of the neurons: none: as both models have it; permutation: that of one is matched with the other's by
    their weights (Ainsworth et al. 2023), in chains of linear layers."""


class LinearBarrier(PoolMeasure[BarrierSpec]):
    r"""The largest rise of the loss above the chord between two models, on average over the other models.

    .. math:: \max_{t \in [0, 1]} L_S((1 - t) w_i + t w_j) - (1 - t) L_S(w_i) - t L_S(w_j)

    (Frankle et al. 2020, who take the mean of both losses for the chord; Entezari et al. 2022), over ``grid`` equally
    spaced t. The ends are among them: the value is at least 0. All parameters take part, whatever a study leaves free,
    and all floating-point buffers: with the running statistics of one end the loss in between would rise for that
    reason alone. Activations vary less in between than at the ends, and less than interpolated statistics say (Jordan
    et al. 2023); ``recalibrated`` has the statistics of the points.

    A pair has a barrier where both have the same names and shapes of parameters and buffers, see the same points, and
    the code of one gives the logits of the other at its weights. The other pairs are left out, and counted.

    With ``alignment: permutation`` the neurons of one model are first put into the order that weight matching finds
    (Ainsworth et al. 2023), layer after layer from the first where they drew layers at random; ``Sequential`` models
    alone, of Linear, Conv and BatchNorm layers with elementwise activations.
    """

    name = "linear_barrier"
    traits = Traits(
        level="pool", larger_means="apart", needs={"peers", "data", "weights"}, symbol="B", label="{of} barrier",
        reference="Frankle et al. 2020; Entezari et al. 2022",
        bibtex=("frankle2020linear", "entezari2022role", "jordan2023repair", "ainsworth2023git"),
    )  # fmt: skip

    def evaluate_pool(self, peers: Sequence[Peer], spec: BarrierSpec, rng: Streams) -> list[Estimate]:
        """Return the mean over the partners of each model; none where its own loss is not finite."""
        from acutance_predictions.pairs.segments import barriers, error_of, loss_of

        reading = loss_of if spec.of == "loss" else error_of
        found = barriers(peers, spec.grid, reading, spec.buffers == "recalibrated", spec.alignment == "permutation")
        estimates = over_partners(found.table, peers)
        for i, estimate in enumerate(estimates):
            if i in found.reasons:
                estimates[i] = Estimate.without_value(Status.UNSUPPORTED, found.reasons[i])
            elif not math.isfinite(found.values[i]):
                estimates[i] = Estimate.without_value(Status.NONFINITE, f"the {spec.of} of this model is not finite")
            elif estimate.status is Status.UNSUPPORTED:
                estimates[i] = replace(estimate, message=ALONE)
            elif math.isinf(estimate.value):
                estimates[i] = replace(estimate, message="weights between this model and another one overflow")
        return estimates

    def passes(self, spec: BarrierSpec) -> Cost:
        """Return the passes of one of two models."""
        return self.passes_among(spec, 2)

    def passes_among(self, spec: BarrierSpec, models: int) -> Cost:
        """Return the outputs of a model, the pass that knows it for one of its kind, and half of those of its pairs."""
        again = 2 if spec.buffers == "recalibrated" else 1
        ends = 1 if again == 1 else 3
        # Each matched network is run once, to see that it is the same function.
        between = again * (spec.grid - 2) + (spec.alignment == "permutation")
        return Cost(forwards=ends + (models - 1) / models + between * (models - 1) / 2)

    def vectors(self, spec: BarrierSpec) -> int:
        """Two ends and a point between them."""
        return 3
