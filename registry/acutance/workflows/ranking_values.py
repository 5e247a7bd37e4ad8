"""Values of the ranking measures on sets of points, and on these without one group of points each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acutance.analysis.ranking import GROUPS, groups_of
from acutance.errors import UserError
from acutance.measure import Estimate, PoolMeasure, Status
from acutance.peers import Peer
from acutance.surface.beside import VALIDATION
from acutance.surface.compared import evaluate_peers
from acutance.surface.evaluation import evaluate_family
from acutance.surface.loss_surface import LossSurface
from acutance.workflows.ranking_measures import Ranker
from acutance.workflows.ranking_outputs import Outputs

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """A set of points as it is dealt into groups.

    Attributes:
        name: of the set.
        digest: of its inputs; names the noise.
        examples: digests of each of them, (n,).
        group: of each point, (n,).
        labels: of its points; None where there are none.
    """

    name: str
    digest: str
    examples: Tensor
    group: NDArray[np.int64]
    labels: Tensor | None = None

    @classmethod
    def of(cls, name: str, digest: str, examples: Tensor, seed: int, labels: Tensor | None = None) -> Sample:
        """Deal points into groups: those that are the same example into one, since copies say nothing new.

        Raises:
            UserError: for fewer different points than groups.
        """
        _, first, which = np.unique(examples.numpy(), return_index=True, return_inverse=True)
        try:
            dealt = groups_of(len(first), seed=seed)
        except UserError as error:
            some = "" if len(first) == len(examples) else f", of {len(examples)}, the only different ones"
            raise UserError(f"{name}: {error.message}{some}", error.hint) from None
        in_order = first.argsort().argsort()  # of the different examples, by where each is first
        return cls(name, digest, examples, dealt[in_order[which]], labels)

    @property
    def parts(self) -> list[Tensor | None]:
        """Rows of all points (None), and of those without one group each."""
        return [None, *(torch.from_numpy(np.flatnonzero(self.group != g)) for g in range(GROUPS))]


@dataclass(frozen=True, eq=False)
class Values:
    """Values of one measure on one set, model by model.

    Attributes:
        value: (M,), NaN where there is none.
        without: (B, G, M): without one group each, of the points, and for measures that look at validation points also
            of these.
        why: why a model has no value, or an untrustworthy one; empty where it has one.
    """

    value: Array
    without: Array
    why: tuple[str, ...]

    @classmethod
    def together(cls, columns: Sequence[Values]) -> Values:
        """Return the values of several models from those of each."""
        return cls(
            np.concatenate([c.value for c in columns]), np.concatenate([c.without for c in columns], axis=2),
            tuple(why for c in columns for why in c.why),
        )  # fmt: skip


class Evaluation:
    """Evaluates measures on one set of points.

    Args:
        sample: the set.
        beside: the labelled points for measures that need some; None where there are none, or the set is these.
        seed: names the noise.
    """

    def __init__(self, sample: Sample, beside: Sample | None, seed: int) -> None:
        self.sample, self.beside, self.seed = sample, beside, seed
        self._parts = sample.parts
        self._parts_beside = beside.parts if beside is not None else []

    def alone(self, rankers: Sequence[Ranker], outputs: Mapping[str, Outputs]) -> list[Values]:
        """Return the values of measures of single models, for one model.

        Args:
            rankers: the measures.
            outputs: of the model, by set.
        """

        def evaluate(ranker: Ranker, surfaces: list[LossSurface]) -> list[Estimate]:
            return evaluate_family(
                ranker.item.id, ranker.instance, surfaces[0], [ranker.spec], seed=self.seed, batch=0, catch=True
            )

        return self._values(rankers, [outputs], evaluate)

    def compared(
        self, rankers: Sequence[Ranker], names: Sequence[str], outputs: Sequence[Mapping[str, Outputs]]
    ) -> list[Values]:
        """Return the values of measures that compare models, for all of them."""

        def evaluate(ranker: Ranker, surfaces: list[LossSurface]) -> list[Estimate]:
            assert isinstance(ranker.instance, PoolMeasure)
            peers = [Peer.of(name, surface) for name, surface in zip(names, surfaces, strict=True)]
            return evaluate_peers(
                ranker.item.id, ranker.instance, peers, ranker.spec, seed=self.seed, points=self.sample.digest
            )

        return self._values(rankers, outputs, evaluate)

    def _values(
        self,
        rankers: Sequence[Ranker],
        outputs: Sequence[Mapping[str, Outputs]],
        evaluate: Callable[[Ranker, list[LossSurface]], list[Estimate]],
    ) -> list[Values]:
        """Evaluate all measures on all points, then on these without one group after the other.

        The surfaces of one part are gone before those of the next are made: what measures share of them is large.
        """
        beside = self._validation(outputs, 0)
        surfaces = self._surfaces(outputs, 0, beside)
        whole = [evaluate(ranker, surfaces) for ranker in rankers]
        samples = [2 if "validation" in ranker.needs else 1 for ranker in rankers]
        without = [np.full((b, GROUPS, len(outputs)), np.nan) for b in samples]
        usable = [any(e.status is Status.OK for e in estimates) for estimates in whole]
        for b in range(max(samples, default=0)):
            concerned = [k for k, ranker in enumerate(rankers) if b < samples[k] and usable[k]]
            for g in range(GROUPS) if concerned else ():
                # The points without a group of theirs, then the validation points without one.
                other = beside if b == 0 else self._validation(outputs, g + 1)
                surfaces = self._surfaces(outputs, g + 1 if b == 0 else 0, other)
                for k in concerned:
                    without[k][b, g] = [_number(e) for e in evaluate(rankers[k], surfaces)]
        return [
            Values(
                np.array([_number(e) for e in estimates]), left,
                tuple("" if e.status is Status.OK else e.message or e.status.advice for e in estimates),
            )
            for estimates, left in zip(whole, without, strict=True)
        ]  # fmt: skip

    def _surfaces(
        self, outputs: Sequence[Mapping[str, Outputs]], part: int, beside: Sequence[LossSurface]
    ) -> list[LossSurface]:
        """Return a surface a model of one part of the points, with the validation points beside it."""
        own = self.sample
        made = [o[own.name].surface(own.digest, own.examples, self._parts[part]) for o in outputs]
        for surface, other in zip(made, beside, strict=False):
            surface.core.companions[VALIDATION] = partial(_itself, other)
        return made

    def _validation(self, outputs: Sequence[Mapping[str, Outputs]], part: int) -> list[LossSurface]:
        if self.beside is None:
            return []
        other, rows = self.beside, self._parts_beside[part]
        return [o[other.name].surface(other.digest, other.examples, rows, other.labels) for o in outputs]


def _itself(surface: LossSurface) -> LossSurface:
    return surface


def _number(estimate: Estimate) -> float:
    return estimate.value if estimate.status is Status.OK else float("nan")


def errors_of(outputs: Outputs, sample: Sample) -> tuple[float, Array]:
    """Return a model's error on labelled points, and without one group of them each, (G,)."""
    assert sample.labels is not None
    wrong = (outputs.logits.argmax(1) != sample.labels).numpy().astype(np.float64)
    if not bool(outputs.logits.amax(1).isfinite().all()):  # minus infinity takes a class away
        wrong[:] = np.nan
    sums = np.bincount(sample.group, wrong, GROUPS)
    sizes = np.bincount(sample.group, minlength=GROUPS)
    return float(wrong.mean()), (wrong.sum() - sums) / (len(wrong) - sizes)
