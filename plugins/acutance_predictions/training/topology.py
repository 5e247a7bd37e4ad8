"""The shape of the points that training went through: how connected they are, and how many they effectively are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status, Traits
from acutance.spec import labelled
from acutance_predictions.training.checkpoints import HELD, AlongRun, PathSpec, Walk

if TYPE_CHECKING:
    import numpy as np

LEAST = 3  # points: two have no shape but their distance
FAR = "the weights of these checkpoints are too far apart for a distance in float64"


class PointsSpec(PathSpec):
    """Settings of a measure of the points that training went through."""

    last: Annotated[Annotated[int, Field(ge=LEAST)] | None, labelled(adds=", last {last} checkpoints")] = None
    """How many points count, the last of them the model; null for all since the start."""


PointsT = TypeVar("PointsT", bound=PointsSpec)


class OfPoints(AlongRun[PointsT]):
    """A function of the distances between the points of a run up to the model."""

    def of_distances(self, table: np.ndarray, spec: PointsT) -> Estimate:
        """Return the value, from (n, n) distances."""
        raise NotImplementedError

    def of_run(self, walk: Walk, spec: PointsT) -> Iterator[Estimate]:
        """Yield the value at each checkpoint."""
        from acutance_predictions.training.distances import distances

        least = spec.last or LEAST
        table, broken = distances(walk)
        for count in range(walk.before + 1, len(table) + 1):
            if count < least:
                yield Estimate.without_value(Status.UNSUPPORTED, _too_few(walk, count, least))
            else:
                first = count - spec.last if spec.last else 0
                estimate = self._of(table[first:count, first:count], spec)
                place = {"points": count - first, "first_step": walk.step(first)}
                yield replace(estimate, extras=place | dict(estimate.extras))
        if broken is not None:
            raise broken

    def _of(self, table: np.ndarray, spec: PointsT) -> Estimate:
        import numpy as np

        if not np.isfinite(table).all():
            return Estimate.without_value(Status.NONFINITE, FAR)
        try:
            return self.of_distances(table, spec)
        except Unsupported as error:  # of these points: those of an earlier or later checkpoint may have a value
            return Estimate.without_value(Status.UNSUPPORTED, str(error))

    def vectors(self, spec: PointsT) -> int:
        """Those that are compared with all after them, and one more; the initial ones, twice, where it begins there."""
        return HELD + 1 + 2 * (spec.start == "initial")


def _too_few(walk: Walk, count: int, least: int) -> str:
    points = "one point" if count == 1 else f"{count} points"
    return f"training run '{walk.run}' has {points} in this study up to this checkpoint, and the measure needs {least}"


class LifetimeSpec(PointsSpec):
    """Settings of the lifetime sum."""

    alpha: Annotated[Annotated[float, Field(gt=0)], labelled()] = 1.0
    """Power of the lifetimes."""


class LifetimeSum(OfPoints[LifetimeSpec]):
    r"""Sum of the lifetimes of the components that the checkpoints of a training run make, to a power.

    .. math:: E_\alpha = \sum_{e \in \mathrm{MST}} \|e\|_2^\alpha

    (Andreeva et al. 2024), over the edges of the Euclidean minimum spanning tree of the weights at the checkpoints of
    the model's run up to the model: the lifetimes of the 0-dimensional persistent homology of their Vietoris-Rips
    filtration. The paper takes alpha = 1 and the iterates after training has come near a minimum (``last``). It grows
    with the number of points, so runs compare where checkpoints were saved at the same steps.

    Unsupported with fewer than three points, and where ``trajectory_length`` is.
    """

    name = "lifetime_sum"
    traits = Traits(
        level="pool", larger_means="more spread", needs={"peers", "weights", "trajectory"}, symbol="E_α",
        label="lifetime sum of checkpoints, α {alpha}{start}", reference="Andreeva et al. 2024, E_α",
        bibtex=("andreeva2024topological",),
    )  # fmt: skip

    def of_distances(self, table: np.ndarray, spec: LifetimeSpec) -> Estimate:
        """Return the sum."""
        from acutance_predictions.training.topology_numerics import lifetimes

        value = lifetimes(table, spec.alpha)
        return Estimate(value, message="" if math.isfinite(value) else f"{FAR} to the power {spec.alpha:g}")


class MagnitudeSpec(PointsSpec):
    """Settings of the magnitude."""

    scale: Annotated[Annotated[float, Field(gt=0)], labelled()]
    """By how much distances are multiplied; of large ones all points count, of small ones they are a single one."""


class PositiveMagnitude(OfPoints[MagnitudeSpec]):
    r"""Positive magnitude of the checkpoints of a training run: how many points they effectively are.

    .. math:: \mathrm{PMag}(s W) = \sum_i \max(\beta_i, 0), \quad \sum_j e^{-s \|w_i - w_j\|_2} \beta_j = 1

    (Andreeva et al. 2024), over the weights at the checkpoints of the model's run up to the model; points that are the
    same count once. At least 1. ``magnitude`` in the extras is the sum of all weights. It depends on the scale, for
    which the paper takes the root of the number of training examples, among others.

    Unsupported with fewer than three points, where ``trajectory_length`` is, and where some points are so close to each
    other that their weights are lost in rounding.
    """

    name = "positive_magnitude"
    traits = Traits(
        level="pool", larger_means="more points", needs={"peers", "weights", "trajectory"}, symbol="PMag",
        label="positive magnitude of checkpoints, scale {scale}{start}", reference="Andreeva et al. 2024, PMag",
        bibtex=("andreeva2024topological",),
    )  # fmt: skip

    def of_distances(self, table: np.ndarray, spec: MagnitudeSpec) -> Estimate:
        """Return the positive part, and the whole beside it."""
        from acutance_predictions.training.topology_numerics import weighting

        weights = weighting(table, spec.scale).tolist()
        return Estimate(math.fsum(w for w in weights if w > 0), extras={"magnitude": math.fsum(weights)})
