"""The checkpoints of a training run among the models of a study, in the order of their steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from acutance.errors import Unsupported
from acutance.measure import Estimate, Need, PoolMeasure, Status
from acutance.spec import Spec, labelled

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.peers import Peer
    from acutance.surface import LossSurface

HELD = 16  # weight vectors that are kept to be compared with those after them
NO_RUN = "it is not known which training run this model is a checkpoint of: its pool gives no run"
NO_STEP = "it is not known at which step of its training run this model was saved: its pool gives no step"


class PathSpec(Spec):
    """Settings of a measure of the checkpoints of a training run."""

    parameters: Annotated[str, labelled(adds=" [{parameters}]")] = "all"
    """Which parameters it is about: "all", or comma-separated patterns of names; a leading "!" takes some out."""
    start: Annotated[Literal["first", "initial"], labelled({"first": "", "initial": " from the initial weights"})] = (
        "first"
    )
    """Where the way begins: at the first checkpoint, or at the initial weights, which the pool then has to know."""


PathT = TypeVar("PathT", bound=PathSpec)


@dataclass(frozen=True)
class Run:
    """The checkpoints of one training run.

    Attributes:
        name: of the run; empty for a model of which no run is known.
        order: places of the checkpoints among all models, in the order of their steps, as far as it is known.
        refused: why the others have no value, by their places.
    """

    name: str
    order: tuple[int, ...] = ()
    refused: dict[int, str] = field(default_factory=dict)


def runs_of(peers: Sequence[Peer]) -> list[Run]:
    """Return the runs of some models, each model in one of them; models of no known run are refused together."""
    found: dict[str, list[int]] = {}
    for i, peer in enumerate(peers):
        found.setdefault(peer.run, []).append(i)
    return [_run(name, places, peers) for name, places in found.items()]


def _run(name: str, places: Sequence[int], peers: Sequence[Peer]) -> Run:
    if not name:
        return Run(name, refused=dict.fromkeys(places, NO_RUN))
    steps = {i: step for i in places if (step := peers[i].step) is not None}
    if unknown := [i for i in places if i not in steps]:
        other = min(peers[i].name for i in unknown)
        beside = f"the step of '{other}', of the same training run, is not known, so neither is what came before"
        return Run(name, refused={i: NO_STEP if i in unknown else beside for i in places})
    twice = [step for step, count in Counter(steps.values()).items() if count > 1]
    first = min(twice, default=None)
    order = sorted((i for i in steps if first is None or steps[i] < first), key=steps.__getitem__)
    same = f"several checkpoints of training run '{name}' have step {first}, so their order is not known"
    return Run(name, tuple(order), {i: same for i in steps if i not in order})


class Walk:
    """The weights along a run, opened one model after another.

    Args:
        run: its name.
        checkpoints: in the order of their steps.
        spec: which parameters, and where the way begins.
    """

    def __init__(self, run: str, checkpoints: Sequence[Peer], spec: PathSpec) -> None:
        self.run, self.checkpoints, self.spec = run, checkpoints, spec
        self._shapes: list[tuple[str, tuple[int, ...]]] | None = None
        self._initial: Tensor | None = None

    def step(self, point: int) -> int | None:
        """Return the step of a point; None of the initial weights."""
        return None if point < self.before else self.checkpoints[point - self.before].step

    @property
    def before(self) -> int:
        """Number of points before the first checkpoint: the initial weights, or none."""
        return int(self.spec.start == "initial")

    def __len__(self) -> int:
        """Return the number of points."""
        return self.before + len(self.checkpoints)

    def points(self, first: int = 0) -> Iterator[tuple[bool, Tensor]]:
        """Yield whether a point is a checkpoint, and its weights, (p,): the initial ones come before all checkpoints.

        Args:
            first: how many points to leave out.

        Raises:
            Unsupported: where initial weights are asked for and not known, or where a model is no checkpoint of the
                same training as those before it.
        """
        for k in range(max(first - self.before, 0), len(self.checkpoints)):
            part = self._opened(k)
            if self.before:
                if self._initial is None:
                    self._initial = part.w0.detach()
                    yield False, self._initial
                elif not self._initial.equal(part.w0):
                    raise Unsupported(self._differ("initial weights", k))
            w = part.w.detach()
            del part  # so that no two models are open at once
            yield True, w

    def _opened(self, k: int) -> LossSurface:
        """Return checkpoint k with the parameters that count."""
        part = self.checkpoints[k].surface().restricted(self.spec.parameters)
        shapes = [(name, tuple(shape)) for name, _, shape, _ in part.layers]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise Unsupported(self._differ("parameters", k))
        return part

    def _differ(self, what: str, k: int) -> str:
        other = self.checkpoints[k].name
        return f"'{other}' has other {what} than '{self.checkpoints[0].name}', of the same training run '{self.run}'"


class AlongRun(PoolMeasure[PathT]):
    """A measure of the checkpoints of a model's training run up to its own; no points are opened."""

    def of_run(self, walk: Walk, spec: PathT) -> Iterator[Estimate]:
        """Yield a value for each checkpoint, from the points of the walk up to it."""
        raise NotImplementedError

    def evaluate_pool(self, peers: Sequence[Peer], spec: PathT, rng: Streams) -> list[Estimate]:
        """Return the values; where the checkpoints of a run do not fit together, it has none from there on."""
        found: dict[int, Estimate] = {}
        for run in runs_of(peers):
            found |= {i: Estimate.without_value(Status.UNSUPPORTED, why) for i, why in run.refused.items()}
            values = self.of_run(Walk(run.name, [peers[i] for i in run.order], spec), spec)
            for k, i in enumerate(run.order):
                try:
                    found[i] = next(values)
                except Unsupported as error:
                    none = Estimate.without_value(Status.UNSUPPORTED, str(error))
                    found |= dict.fromkeys(run.order[k:], none)
                    break
        return [found[i] for i in range(len(peers))]

    def needs(self, spec: PathT) -> frozenset[Need]:
        """Return what is read: also the initial weights where the way begins there."""
        return super().needs(spec) | (frozenset({"initial_weights"}) if spec.start == "initial" else frozenset())
