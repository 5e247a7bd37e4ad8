"""How far training walked through the weights, and by what detour."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acutance.measure import Estimate, Status, Traits
from acutance_predictions.training.checkpoints import AlongRun, PathSpec, Walk

if TYPE_CHECKING:
    from torch import Tensor

CLOSED = "the weights are where training started, so no straight line leads from there to them"


def _ways(walk: Walk, straight: bool) -> Iterator[tuple[list[float], float]]:
    """Yield, for each checkpoint, the distances between the points up to it, and that of the first and the last.

    Args:
        walk: along a run.
        straight: whether the second is asked for: the first weights are kept for it.
    """
    from acutance_predictions.training.distances import distance

    moves: list[float] = []
    start: Tensor | None = None
    before: Tensor | None = None
    for is_checkpoint, w in walk.points():
        if before is not None:
            moves.append(distance(before, w))
        if straight and start is None:
            start = w
        before = w
        if is_checkpoint:
            yield moves, math.nan if start is None else distance(start, w)


def _estimate(moves: Sequence[float], value: float, walk: Walk) -> Estimate:
    return Estimate(value, extras={"points": len(moves) + 1, "first_step": walk.step(0)})


def _none(walk: Walk) -> Estimate:
    why = f"no earlier checkpoint of training run '{walk.run}' is compared in this study: a way has two points or more"
    return Estimate.without_value(Status.UNSUPPORTED, why)


class TrajectoryLength(AlongRun[PathSpec]):
    r"""Length of the way that training took through the weights, over the checkpoints of its run up to the model.

    .. math:: \sum_{t=0}^{T-1} \|w_{t+1} - w_t\|_2

    with :math:`w_0, \dots, w_T` the weights at the checkpoints of one training run in the order of their steps, the
    model itself the last. It is the length of a polygon: more checkpoints of the same run make it longer, so that runs
    compare where checkpoints were saved at the same steps. Gradient descent takes a short way in overparameterized
    models (Oymak and Soltanolkotabi 2019).

    Unsupported where the run or a step is not known, steps are equal, or no earlier checkpoint is in the study.
    """

    name = "trajectory_length"
    traits = Traits(
        level="pool", larger_means="longer way", needs={"peers", "weights", "trajectory"}, symbol="ℓ",
        label="trajectory length{start}", reference="Oymak & Soltanolkotabi 2019",
        bibtex=("oymak2019overparameterized",),
    )  # fmt: skip

    def of_run(self, walk: Walk, spec: PathSpec) -> Iterator[Estimate]:
        """Yield the length up to each checkpoint."""
        for moves, _ in _ways(walk, straight=False):
            yield _estimate(moves, math.fsum(moves), walk) if moves else _none(walk)

    def vectors(self, spec: PathSpec) -> int:
        """The weights before; the initial ones, twice, where the way begins there."""
        return 3 if spec.start == "initial" else 1


class TrajectoryTortuosity(AlongRun[PathSpec]):
    r"""How many times longer the way of training was than the straight line to where it led.

    .. math:: \frac{\sum_{t=0}^{T-1} \|w_{t+1} - w_t\|_2}{\|w_T - w_0\|_2} \ge 1

    over the checkpoints of the model's training run up to the model, as in ``trajectory_length``: 1 for a straight way.
    Gradient descent in overparameterized models is close to it (Oymak and Soltanolkotabi 2019).

    Unsupported where the end is the start, too.
    """

    name = "trajectory_tortuosity"
    traits = Traits(
        level="pool", larger_means="larger detour", needs={"peers", "weights", "trajectory"}, symbol="τℓ",
        label="trajectory tortuosity{start}", reference="Oymak & Soltanolkotabi 2019",
        bibtex=("oymak2019overparameterized",),
    )  # fmt: skip

    def of_run(self, walk: Walk, spec: PathSpec) -> Iterator[Estimate]:
        """Yield the quotient at each checkpoint."""
        for moves, straight in _ways(walk, straight=True):
            if not moves:
                yield _none(walk)
            elif straight == 0:
                yield Estimate.without_value(Status.UNSUPPORTED, CLOSED)
            else:
                # Not below 1 but by rounding; what is no number stays none.
                quotient = math.fsum(moves) / straight
                yield _estimate(moves, 1.0 if quotient < 1 else quotient, walk)

    def vectors(self, spec: PathSpec) -> int:
        """The weights before and the first ones; the initial ones of each model where the way begins there."""
        return 3 if spec.start == "initial" else 2
